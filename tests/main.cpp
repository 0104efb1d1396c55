// The main function of the doctest programs, and a kernel that has less than this one: with
// RINGLET_TEST_RUNG=N in the environment, N from 1 to 4, every ring is made as on the Nth rung of the
// ladder in reactor.hpp, whatever is asked for. tests/ladder_test.py runs the programs so.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <dlfcn.h>
#include <linux/io_uring.h>

#include <cerrno>
#include <cstdlib>

struct io_uring;  // liburing.h would say how these are declared, in each of its versions otherwise
extern "C" int io_uring_queue_init_params(unsigned, io_uring*, io_uring_params*);
extern "C" int io_uring_register_ring_fd(io_uring*);

namespace {

int rung() {
    const char* const text = std::getenv("RINGLET_TEST_RUNG");
    return text ? std::atoi(text) : 0;
}
unsigned lowered(unsigned flags) {
    const int n = rung();
    if (n >= 1 && flags & IORING_SETUP_DEFER_TASKRUN)
        flags ^= IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN;
    if (n >= 2) flags &= ~IORING_SETUP_SINGLE_ISSUER;
    if (n >= 3) flags &= ~(IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
    if (n >= 4) flags &= ~IORING_SETUP_SUBMIT_ALL;
    return flags;
}
template <class F> F* next(F*, const char* name) {
    return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

// In place of liburing's: the program's own come first.
extern "C" int io_uring_queue_init_params(unsigned entries, io_uring* ring, io_uring_params* p) {
    static auto* const real = next(&io_uring_queue_init_params, "io_uring_queue_init_params");
    p->flags = lowered(p->flags);
    return real(entries, ring, p);
}
// On the last rung, Linux 5.15, it is not there.
extern "C" int io_uring_register_ring_fd(io_uring* ring) {
    static auto* const real = next(&io_uring_register_ring_fd, "io_uring_register_ring_fd");
    return rung() >= 4 ? -EINVAL : real(ring);
}
