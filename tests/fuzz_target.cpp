// The same random programs, with libFuzzer choosing: clang++ -fsanitize=fuzzer,address,undefined.
#include <csignal>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::signal(SIGPIPE, SIG_IGN);
    fuzz::choices c(data, size);
    const std::string wrong = fuzz::run(c, false);
    if (wrong.empty()) return 0;
    std::fprintf(stderr, "%s\n", wrong.c_str());
    std::abort();
}
