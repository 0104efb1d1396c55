// Random programs from seeds: fuzz_test [FIRST [COUNT]], by default 500 from seed 1. A seed that
// fails is printed with the command that runs it again.
#include "fuzz.hpp"

#include <csignal>

int main(int argc, char** argv) {
    const unsigned long first = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1;
    const unsigned long count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 500;
    std::signal(SIGPIPE, SIG_IGN);
    int failed = 0;
    for (unsigned long seed = first; seed < first + count; ++seed) {
        if (std::getenv("FUZZ_VERBOSE")) std::fprintf(stderr, "seed %lu\n", seed);
        fuzz::choices c(seed);
        const std::string wrong = fuzz::run(c, seed % 64 == 0);
        if (wrong.empty()) continue;
        ++failed;
        std::printf("seed %lu: %s; again: %s %lu 1\n", seed, wrong.c_str(), argv[0], seed);
    }
    std::printf("%lu passed, %d failed\n", count - static_cast<unsigned long>(failed), failed);
    return failed != 0;
}
