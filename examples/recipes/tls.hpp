// recipes/tls.hpp: the client's side of TLS, over a connected socket. Needs OpenSSL (libssl-dev; -lssl -lcrypto).
//
//     #include <ringlet/recipes/tls.hpp>
//     const ringlet::tls::context c = ringlet::tls::trust();  // the system's authorities
//     ringlet::tls::stream s(c, socket, "example.org");
//     co_await s.handshake();             // throws if that is not example.org
//     co_await s.write(std::as_bytes(std::span(request)));
//     std::size_t n = co_await s.read(buffer);
//     co_await s.close();
//
// OpenSSL computes, and never touches the socket: it reads from one buffer and writes to another
// (memory BIOs), and this carries bytes between those and the kernel. A call's life:
//
//          (1)                 (2)                           (3)
//     SSL_read, say ----> what it has written is sent ----> done: its result
//          ^                   |
//          |    (4)            v  it wants more
//          +----------- bytes received
//
//     (1) never blocks    (2) first, or the peer would wait for that while we wait for the peer
//     (3) a result, the peer's goodbye (0), or an error    (4) the end of the stream is an error here:
//     only the peer's goodbye says that nothing was cut off
//
// Who is at the other end is always checked: the certificate must come from one of the context's
// authorities, be valid today, and be made out to the host. TLS 1.2 or later.
//
// One task at a time may use a stream. If a read is cancelled while it waits, nothing is lost. If a
// write is, part of it may have been sent: the stream can only be given up then.
#pragma once

#include <ringlet/reactor.hpp>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

namespace ringlet::tls {

// What another attempt hardly changes: a certificate, or a peer that speaks something else. A
// connection that breaks is a std::system_error.
struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Whom to trust: the system's authorities, or those of a file of certificates (PEM).
using context = std::shared_ptr<SSL_CTX>;
inline context trust(const char* file = nullptr) {
    const context c(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    SSL_CTX_set_min_proto_version(c.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(c.get(), SSL_VERIFY_PEER, nullptr);
    const int good = file ? SSL_CTX_load_verify_file(c.get(), file)
                          : SSL_CTX_set_default_verify_paths(c.get());
    if (good != 1) throw error(std::string("no certificates: ") + (file ? file : "the system's"));
    return c;
}

class stream {
public:
    // The socket is borrowed. `name` is a host's name, or its address, which the certificate has to
    // bear; a dot at the end of a name is in none. Throws error where it can be neither: an empty
    // one, say, or one with a dot in front.
    stream(const context& c, int socket, const std::string& name)
        : fd(socket), host(name), ssl(SSL_new(c.get()), SSL_free) {
        SSL_set_bio(ssl.get(), in, out);  // it owns them from now on
        SSL_set_connect_state(ssl.get());
        SSL_set_hostflags(ssl.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        const char* const n = host.erase(host.size() - host.ends_with('.')).c_str();
        if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), n) == 1) return;
        // Below '0' are the end and the dot: with one in front any name behind it would do.
        if (*n < '0' || !SSL_set1_host(ssl.get(), n) || !SSL_set_tlsext_host_name(ssl.get(), n))
            throw error("no name of a host: " + name);
    }
    // To be awaited first. Throws error if the peer is not who it should be, or speaks no TLS;
    // std::system_error if the connection breaks. So do the others.
    auto handshake() { return run(SSL_do_handshake); }
    // At most into.size() bytes; 0: the peer has said goodbye.
    template <class = void> task<std::size_t> read(std::span<std::byte> into) {
        if (into.empty()) co_return 0;
        const int most = static_cast<int>(std::min<std::size_t>(into.size(), INT_MAX));
        const auto step = [&](SSL* s) { return SSL_read(s, into.data(), most); };
        co_return static_cast<std::size_t>(co_await run<false>(step));
    }
    // All of `from`.
    template <class = void> task<> write(std::span<const std::byte> from) {
        const auto step = [&](SSL* s) {  // a record
            return SSL_write(
                s, from.data(), static_cast<int>(std::min<std::size_t>(from.size(), 16384)));
        };
        while (!from.empty()) from = from.subspan(static_cast<std::size_t>(co_await run(step)));
    }
    // Says goodbye: without it the peer must take what it has got for cut off. Does not wait for the
    // peer's.
    auto close() {
        return run([](SSL* s) { return SSL_shutdown(s) < 0 ? -1 : 1; });
    }

private:
    // Calls step until it has a result: a number, or for a read 0, the peer's goodbye. (To others it
    // is an error: in place of a certificate it must not pass for a handshake.) What a read has taken
    // is given at once: its answer to a new key, say, is sent by the next call that has to wait.
    template <bool Sends = true, class Step> task<int> run(Step step) {
        for (;;) {
            ERR_clear_error();
            const int n = step(ssl.get()), why = SSL_get_error(ssl.get(), n);
            const char* const reason = ERR_reason_error_string(ERR_peek_error());
            if (Sends || n <= 0) co_await send_out();
            if (n > 0 || (!Sends && why == SSL_ERROR_ZERO_RETURN)) co_return std::max(n, 0);
            const long verdict = SSL_get_verify_result(ssl.get());
            if (verdict != X509_V_OK)
                throw error(host + ": " + X509_verify_cert_error_string(verdict));
            if (why != SSL_ERROR_WANT_READ)
                throw error(host + ": " + (reason ? reason : "TLS fails"));
            const std::size_t got = co_await io::recv(fd, buffer);
            if (got == 0) detail::fail(ENODATA, host + ": the connection was cut off");
            BIO_write(in, buffer.data(), static_cast<int>(got));
        }
    }
    template <class = void> task<> send_out() {
        for (const std::byte* from = nullptr; BIO_get_mem_data(out, &from) > 0;) {
            const auto most = std::min(BIO_ctrl_pending(out), buffer.size());
            const std::size_t n = co_await io::send(fd, std::span(from, most));
            // Taken away only now: what a cancel has kept from being sent, the next call sends.
            BIO_read(out, buffer.data(), static_cast<int>(n));
        }
    }

    int fd;
    std::string host;
    std::unique_ptr<SSL, void (*)(SSL*)> ssl;
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    std::vector<std::byte> buffer = std::vector<std::byte>(17 * 1024);  // a record, and its frame
};

}  // namespace ringlet::tls
