// recipes/tls.hpp against `openssl s_server`, with authorities that are made for the test.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <spawn.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <ringlet/recipes/tls.hpp>
#include <ringlet/timer.hpp>
#include <thread>

#include "support.hpp"

using namespace std::chrono_literals;
using namespace ringlet;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t big = 3'000'000;

void shell(const std::string& command) {
    CAPTURE(command);
    REQUIRE(std::system((command + " >/dev/null 2>&1").c_str()) == 0);
}

// A directory with two authorities, and certificates of the first: good, old, and of nobody.
struct authorities {
    fs::path home = fs::temp_directory_path() / ("tls_test." + std::to_string(::getpid()));
    authorities() {
        fs::create_directory(home);
        const std::string in = "cd " + home.string() + " && ";
        const std::string key = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes ";
        for (const char* ca : {"ca", "other"})
            shell(in + key + "-x509 -days 2 -subj /CN=" + ca + " -keyout " + ca + ".key -out " + ca
                + ".pem");
        const std::string names =
            "DNS:localhost,DNS:*.example.test,DNS:part*.example.test,IP:127.0.0.1";
        std::ofstream(home / "names") << "subjectAltName=" << names << "\n";
        shell(in + key + "-subj /CN=common.test -keyout key -out request");
        const std::string sign = in
            + "openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names ";
        shell(sign + "-days 2 -out good");
        shell(sign + "-days 0 -out old");
        shell(in + "openssl x509 -req -in request -signkey key -extfile names -days 2 -out nobody");
        std::ofstream(home / "big") << std::string(big, 'b');
    }
    authorities(authorities&&) = delete;
    ~authorities() { fs::remove_all(home); }
    tls::context trusted() const { return tls::trust((home / "ca.pem").c_str()); }
};

const authorities& made() {
    static const authorities a;
    return a;
}

// A server, until the end of the scope.
struct server {
    pid_t pid = -1;
    unique_fd to, from;
    unsigned port = 0;
    std::string said;

    explicit server(const std::string& certificate, std::vector<std::string> options = {"-rev"}) {
        int in[2], out[2];
        REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
        REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
        const unique_fd theirs(in[0]), ours(out[1]);
        to.reset(in[1]), from.reset(out[0]);
        std::vector<std::string> words{
            "openssl", "s_server", "-accept", "127.0.0.1:0", "-key", "key", "-cert", certificate};
        words.insert(words.end(), options.begin(), options.end());
        std::vector<char*> argv;
        for (std::string& w : words) argv.push_back(w.data());
        argv.push_back(nullptr);
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_addchdir_np(&files, made().home.c_str());
        posix_spawn_file_actions_adddup2(&files, theirs, 0);
        posix_spawn_file_actions_adddup2(&files, ours, 1);
        posix_spawn_file_actions_adddup2(&files, ours, 2);
        REQUIRE(::posix_spawnp(&pid, "openssl", &files, nullptr, argv.data(), environ) == 0);
        posix_spawn_file_actions_destroy(&files);
        hear("ACCEPT 127.0.0.1:");
        while (said.find('\n', said.find("ACCEPT")) == said.npos) hear("");
        port = static_cast<unsigned>(std::stoul(said.substr(said.find("ACCEPT 127") + 17)));
    }
    server(server&&) = delete;
    ~server() { stop(); }
    void stop() {
        if (pid < 0) return;
        ::kill(pid, SIGKILL);
        ::waitpid(std::exchange(pid, -1), nullptr, 0);
    }
    // Waits until it has said that.
    void hear(const char* what) {
        char text[4096];
        do {
            pollfd p{from, POLLIN, 0};
            REQUIRE(::poll(&p, 1, 20'000) == 1);
            const auto n = ::read(from, text, sizeof text);
            REQUIRE(n > 0);
            said.append(text, static_cast<std::size_t>(n));
        } while (!support::contains(said, what));
    }
    unique_fd connect() const {
        unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(static_cast<std::uint16_t>(port));
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0);
        return s;
    }
};

auto bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// A line, and what comes back: the same backwards.
task<std::string> ask(tls::stream& s, std::string line) {
    std::string text;
    std::array<std::byte, 1000> buffer;
    line += '\n';
    co_await s.write(bytes(line));
    while (!text.ends_with('\n')) {
        const std::size_t n = co_await s.read(buffer);
        if (n == 0) break;
        text.append(reinterpret_cast<const char*>(buffer.data()), n);
    }
    co_return text;
}
task<std::string> exchange(const tls::context& c, int socket, std::string name) {
    tls::stream s(c, socket, name);
    co_await s.handshake();
    std::string text = co_await ask(s, "abc");
    co_await s.close();
    co_return text;
}
// The reason for which a name is refused; empty if it is not.
std::string refusal(const server& s, const tls::context& c, const std::string& name) {
    const unique_fd socket = s.connect();
    std::string text;
    try {
        text = block_on(exchange(c, socket, name));
    } catch (const tls::error& e) { return e.what(); }
    CHECK(text == "cba\n");
    return "";
}
// The server's side in this process: it does what no s_server can be told to do at a given moment.
struct peer {
    std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context{
        SSL_CTX_new(TLS_server_method()), SSL_CTX_free};
    std::unique_ptr<SSL, void (*)(SSL*)> ssl{nullptr, SSL_free};

    explicit peer(int socket) {
        const std::string certificate = made().home / "good", key = made().home / "key";
        REQUIRE(SSL_CTX_use_certificate_file(context.get(), certificate.c_str(), 1) == 1);
        REQUIRE(SSL_CTX_use_PrivateKey_file(context.get(), key.c_str(), SSL_FILETYPE_PEM) == 1);
        ssl.reset(SSL_new(context.get()));
        SSL_set_fd(ssl.get(), socket);
    }
    // Asks for a new key of the other side's, which that has to answer.
    void renew() {
        REQUIRE(SSL_key_update(ssl.get(), SSL_KEY_UPDATE_REQUESTED) == 1);
        REQUIRE(SSL_do_handshake(ssl.get()) == 1);
    }
    std::string read() {
        char text[100];
        const int n = SSL_read(ssl.get(), text, sizeof text);
        return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : "nothing";
    }
};
auto descriptors() {
    const fs::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
}

}  // namespace

TEST_CASE("the right names are let in, all others are not") {
    const auto c = made().trusted();
    const server s("good");
    for (const char* name :
        {"localhost", "LOCALHOST", "127.0.0.1", "a.example.test", "localhost.", "a.example.test."})
        CHECK(refusal(s, c, name) == "");
    for (const char* name :
        {"other.test", "example.test", "a.b.example.test", "common.test", "localhost.test"})
        CHECK(refusal(s, c, name) == std::string(name) + ": hostname mismatch");
    for (const char* name : {"127.0.0.2", "::1"})
        CHECK(refusal(s, c, name) == std::string(name) + ": IP address mismatch");
    CHECK(refusal(s, c, "") == "no name of a host: ");
    CHECK(refusal(s, c, ".example.test") == "no name of a host: .example.test");
    CHECK(refusal(s, c, ".") == "no name of a host: .");
}

TEST_CASE("whoever is not vouched for is refused") {
    const auto c = made().trusted();
    const server good("good"), old("old"), nobody("nobody");
    CHECK(refusal(good, tls::trust(), "localhost")
        == "localhost: unable to get local issuer certificate");
    CHECK(support::contains(
        refusal(good, tls::trust((made().home / "other.pem").c_str()), "localhost"),
        "localhost: unable to get local issuer certificate"));
    CHECK(refusal(nobody, c, "localhost") == "localhost: self-signed certificate");
    CHECK(refusal(old, c, "localhost") == "localhost: certificate has expired");
    // By the handshake, and not only by what comes behind it: a stranger is told nothing.
    const unique_fd socket = nobody.connect();
    tls::stream stream(c, socket, "localhost");
    CHECK_THROWS_AS(block_on(stream.handshake()), tls::error);
    CHECK_THROWS_AS(tls::trust("/nowhere"), tls::error);
}

TEST_CASE("TLS before 1.2, and what is no TLS, are refused") {
    const auto c = made().trusted();
    const server old("good", {"-rev", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"});
    CHECK(refusal(old, c, "localhost") != "");
    const server two("good", {"-rev", "-tls1_2"}), three("good", {"-rev", "-tls1_3"});
    CHECK(refusal(two, c, "localhost") == "");
    CHECK(refusal(three, c, "localhost") == "");
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    const unique_fd ours(pair[0]), theirs(pair[1]);
    REQUIRE(::write(theirs, "HTTP/1.1 400 Bad Request\r\n\r\n", 28) == 28);
    CHECK_THROWS_AS(block_on(exchange(c, ours, "localhost")), tls::error);
}

TEST_CASE("a goodbye in place of a certificate is no handshake") {
    const auto c = made().trusted();
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    const unique_fd ours(pair[0]), theirs(pair[1]);
    REQUIRE(::write(theirs, "\x15\3\3\0\2\1\0", 7) == 7);  // an alert, in the clear
    tls::stream stream(c, ours, "localhost");
    CHECK_THROWS_AS(block_on(stream.handshake()), tls::error);
}

TEST_CASE("the name is told to the server") {
    const auto c = made().trusted();
    server s("good",
        {"-rev", "-servername", "localhost", "-cert2", "good", "-key2", "key",
            "-servername_fatal"});
    CHECK(refusal(s, c, "localhost") == "");
    CHECK(refusal(s, c, "localhost.") == "");
    CHECK(refusal(s, c, "a.example.test") != "");
}

TEST_CASE("a large answer, to its goodbye") {
    const server s("good", {"-WWW"});
    const auto c = made().trusted();
    auto root = [&]() -> task<std::size_t> {
        const unique_fd socket = s.connect();
        tls::stream stream(c, socket, "localhost");
        std::vector<std::byte> buffer(50'000);
        std::size_t all = 0;
        co_await stream.handshake();
        co_await stream.write(bytes("GET /big HTTP/1.0\r\n\r\n"));
        for (;;) {
            const std::size_t n = co_await stream.read(buffer);
            if (n == 0) break;
            all += static_cast<std::size_t>(
                std::count(buffer.begin(), buffer.begin() + static_cast<long>(n), std::byte('b')));
        }
        co_return all;
    };
    CHECK(block_on(root()) == big);
}

TEST_CASE("much in both directions, and nothing cut off unseen") {
    const auto c = made().trusted();
    server s("good");
    const unique_fd socket = s.connect();
    auto root = [&]() -> task<> {
        tls::stream stream(c, socket, "localhost");
        co_await stream.handshake();
        for (const std::size_t n : {std::size_t(1), std::size_t(16'000), std::size_t(16'384)}) {
            const std::string line(n, 'x'), back = co_await ask(stream, line);
            CHECK(back == line + "\n");
        }
        s.stop();
        std::array<std::byte, 100> buffer;
        bool cut_off = false;
        try {
            for (std::size_t n = 1; n > 0;) n = co_await stream.read(buffer);
        } catch (const tls::error& e) {
            cut_off = std::string(e.what()) == "localhost: the connection was cut off";
        } catch (const std::system_error&) { cut_off = true; }  // a reset
        CHECK(cut_off);
    };
    block_on(root());
}

TEST_CASE("close says goodbye") {
    server s("good", {"-rev", "-msg"});
    CHECK(refusal(s, made().trusted(), "localhost") == "");
    s.hear("<<< TLS 1.3, Alert [length 0002], warning close_notify");
}

TEST_CASE("a read of nothing is over at once, and no error, whatever is there") {
    const auto c = made().trusted();
    const server s("good");
    const unique_fd socket = s.connect();
    auto root = [&]() -> task<> {
        tls::stream stream(c, socket, "localhost");
        co_await stream.handshake();
        const std::size_t none = co_await stream.read({});
        CHECK(none == 0);
        co_await stream.write(bytes("line\n"));
        const auto readable = co_await ringlet::io::poll(socket, POLLIN);
        CHECK((readable & POLLIN) != 0);
        const std::size_t still = co_await stream.read({});
        CHECK(still == 0);
        auto text = co_await ask(stream, "more");
        CHECK(text.starts_with("enil\n"));
    };
    block_on(root());
}

TEST_CASE("a read that is cancelled loses nothing") {
    const auto c = made().trusted();
    const server s("good");
    const unique_fd socket = s.connect();
    auto root = [&]() -> task<> {
        tls::stream stream(c, socket, "localhost");
        std::array<std::byte, 100> buffer;
        co_await stream.handshake();
        for (int i = 0; i < 20; ++i) {
            co_await stream.write(bytes("half "));
            auto none = co_await try_timeout(std::chrono::milliseconds(i % 3), stream.read(buffer));
            CHECK_FALSE(none.has_value());
            auto text = co_await ask(stream, "line");
            CHECK(text == "enil flah\n");
        }
    };
    block_on(root());
}

TEST_CASE("a read that is cancelled when the peer has asked for a new key loses nothing") {
    const auto c = made().trusted();
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    const unique_fd ours(pair[0]), theirs(pair[1]);
    peer p(theirs);
    std::array<std::byte, 100> buffer;
    auto root = [&]() -> task<> {
        tls::stream stream(c, ours, "localhost");
        {
            const std::jthread accepts([&] { SSL_accept(p.ssl.get()); });
            co_await stream.handshake();
        }
        for (const bool more : {false, true, false}) {
            p.renew();
            if (more) CHECK(SSL_write(p.ssl.get(), "text", 4) == 4);
            auto reading = spawn(stream.read(buffer));
            auto cancelled = [&]() -> task<std::optional<std::size_t>> {
                co_return co_await std::move(reading).cancel();
            };
            // It begins to read, and is cancelled before the kernel has heard of that.
            const auto got = co_await spawn(cancelled());
            CHECK(got.value_or(0) == (more ? 4U : 0U));
        }
        co_await stream.write(bytes("answer"));
        CHECK(p.read() == "answer");
    };
    block_on(root());
}

TEST_CASE("byte by byte, both ways") {
    const auto c = made().trusted();
    const server s("good");
    const unique_fd socket = s.connect();
    reactor::on_submit = [](io_uring_sqe* e) {
        if (e->opcode == IORING_OP_RECV || e->opcode == IORING_OP_SEND) e->len = 1;
    };
    std::string text;
    try {
        text = block_on(exchange(c, socket, "localhost"));
    } catch (...) {}
    reactor::on_submit = nullptr;
    CHECK(text == "cba\n");
}

TEST_CASE("destroyed at each suspension") {
    const auto c = made().trusted();
    const server s("good");
    const auto before = descriptors();
    bool ended = false;
    for (int waits = 0; !ended; ++waits) {
        REQUIRE(waits < 100);
        const unique_fd socket = s.connect();
        executor ex;
        auto handle = ex.spawn(exchange(c, socket, "localhost"));
        auto some = [&]() -> task<> {  // as many turns as that
            for (int i = 0; i < waits && !handle.done(); ++i) {
                const auto seen = reactor::stats().completed;
                while (reactor::stats().completed == seen && !handle.done())
                    co_await sleep_for(50us);
            }
        };
        ex.run(some());
        ended = handle.done();
        if (waits % 2) handle = {};
    }
    CHECK(descriptors() == before);
}
