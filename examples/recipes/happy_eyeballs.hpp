// recipes/happy_eyeballs.hpp: a connection to a name, by whichever of its addresses answers first.
//
//     #include <ringlet/recipes/happy_eyeballs.hpp>
//     ringlet::task<ringlet::unique_fd> open_mail(std::string host) {
//         co_return co_await ringlet::connect_to(host, "smtp");
//     }
//
// A name may have a dozen addresses, of two families, and some of them dead. To try one after the
// other can take minutes; to try all at once is rude. So (RFC 8305, "happy eyeballs") the families
// take turns, the next attempt begins when the last has failed or after a quarter of a second, and
// the first connection wins.
//
//            (1)                    (2)                  (3)
//     race ------> attempt(0) ---- fails, or 250 ms ----> race: attempt(1), and so on
//                      |                                   |
//                      +---- (4) connects -----------------+----> the others are cancelled
//
//     (1) when_any of an attempt and what comes after it    (2) others() waits for either
//     (3) the race for the rest: when_any again    (4) an attempt that fails does not end the race,
//     unless it is the last that could win it: then its error does, the first that was met
#pragma once

#include <ringlet/recipes/dns.hpp>
#include <ringlet/timer.hpp>

namespace ringlet {

// The families in turns, each in its order.
inline endpoints interleaved(const endpoints& list) {
    endpoints of[2], turns;
    for (const endpoint& e : list)
        of[e.address.ss_family != list.front().address.ss_family].push_back(e);
    for (std::size_t i = 0; i < list.size(); ++i)
        for (const endpoints& family : of)
            if (i < family.size()) turns.push_back(family[i]);
    return turns;
}

// A connection to one address. Throws std::system_error, with the address in its text if the socket was
// there and could not be connected.
template <class = void> task<unique_fd> connect_to(endpoint to) {
    unique_fd s = co_await io::socket(to.address.ss_family, SOCK_STREAM);
    const int n = co_await io::connect(s, to.get(), to.size).result();
    if (n < 0) detail::fail(-n, "connect to " + to.text());
    co_return s;
}

namespace detail {

struct racing {
    endpoints list;
    std::chrono::milliseconds stagger;
    std::size_t failures = 0;
    std::exception_ptr error{};  // the first
};
template <class = void> task<unique_fd> attempt(racing& r, std::size_t i, channel<bool>& failed) {
    try {
        co_return co_await connect_to(r.list[i]);
    } catch (const std::system_error&) {
        if (!r.error) r.error = std::current_exception();
    }
    if (++r.failures == r.list.size()) std::rethrow_exception(r.error);
    failed.try_send(true);
    co_await sleep_for(std::chrono::hours::max());  // the race goes on
    co_return unique_fd();
}
template <class = void> task<unique_fd> race(racing& r, std::size_t i);
template <class = void> task<unique_fd> others(racing& r, std::size_t i, channel<bool>& failed) {
    co_await try_timeout(r.stagger, failed.recv());
    co_return co_await race(r, i);
}
template <class> task<unique_fd> race(racing& r, std::size_t i) {
    channel<bool> failed(1);
    if (i + 1 == r.list.size()) co_return co_await attempt(r, i, failed);
    auto [first, later] = co_await when_any(attempt(r, i, failed), others(r, i + 1, failed));
    co_return first ? std::move(*first) : std::move(*later);
}

}  // namespace detail

// A connection to the first of the addresses that answers. Throws the std::system_error of the first
// that failed, when all have.
template <class = void>
task<unique_fd> connect_any(
    endpoints list, std::chrono::milliseconds stagger = std::chrono::milliseconds(250)) {
    if (list.empty()) throw std::invalid_argument("ringlet::connect_any: no address");
    detail::racing r{std::move(list), stagger};
    co_return co_await detail::race(r, 0);
}
// The same for a name, whose addresses it looks up before. Throws what resolve throws as well.
template <class = void> task<unique_fd> connect_to(std::string host, std::string service) {
    const endpoints list = co_await resolve(host, service);
    co_return co_await connect_any(interleaved(list));
}

}  // namespace ringlet
