// For tests that let a request fail as the kernel would fail it: one that is not done, and has a
// result all the same.
#pragma once

#include <doctest/doctest.h>

#include <ringlet/reactor.hpp>

namespace support {

inline void inject(io_uring_sqe* s, int result) {
    *s = {};
    s->opcode = IORING_OP_NOP;
    s->rw_flags = 1;  // IORING_NOP_INJECT_RESULT
    s->len = static_cast<unsigned>(result);
}
// Older kernels, that of Debian 12 for one, know no such flag: EINVAL, or a 0.
inline bool can_inject() {
    const auto fill = [](io_uring_sqe* s) { inject(s, 77); };
    const bool can = ringlet::block_on(ringlet::io::op(fill).result()) == 77;
    if (!can) MESSAGE("this kernel injects no results");
    return can;
}

}  // namespace support
