// recipes/http1.hpp: each message whole, cut at every point, and byte by byte: always the same outcome.
#include <doctest/doctest.h>

#include <ringlet/recipes/http1.hpp>

using namespace ringlet::http1;

namespace {

// What came of it: the message, or the status and the reason why it is none.
std::string outcome(const parser& p, const std::string& body, std::size_t unread) {
    std::string text = p.done() ? "done" : p.head_done() ? "in the body" : "in the head";
    text += " " + p.method + " " + p.target + " " + std::to_string(p.status) + " 1."
        + std::to_string(p.minor) + (p.keep_alive() ? " keeps " : " closes ")
        + std::to_string(p.length) + (p.chunked ? " chunked" : "") + ";";
    for (const auto& [name, value] : p.fields) text += " " + name + "=[" + value + "]";
    return text + "; " + body + "; " + std::to_string(unread) + " unread";
}

// Feeds the pieces, which together are the input; what one leaves unread is in front of the next.
std::string read(parser::kind kind, const std::vector<std::string>& pieces, bool close = false) {
    parser p(kind);
    std::string body, unread;
    try {
        for (const std::string& piece : pieces) {
            unread += piece;
            std::string_view in = unread;
            while (!in.empty() && !p.done()) body += p.feed(in);
            unread.erase(0, unread.size() - in.size());
        }
        if (close) p.end();
    } catch (const error& e) { return std::to_string(e.status) + " " + e.what(); }
    return outcome(p, body, unread.size());
}

// The outcome, which must be the same for every way to cut the text in two, and for single bytes.
std::string every_way(parser::kind kind, const std::string& text, bool close = false) {
    const std::string whole = read(kind, {text}, close);
    for (std::size_t at = 0; at <= text.size(); ++at) {
        CAPTURE(at);
        CHECK(read(kind, {text.substr(0, at), text.substr(at)}, close) == whole);
    }
    std::vector<std::string> bytes;
    for (const char c : text) bytes.emplace_back(1, c);
    CHECK(read(kind, bytes, close) == whole);
    return whole;
}
std::string request(const std::string& text) { return every_way(parser::request, text); }
std::string response(const std::string& text, bool close = false) {
    return every_way(parser::response, text, close);
}
// A request with these lines behind the first.
std::string with(const std::string& lines) {
    return request("GET / HTTP/1.1\r\n" + lines + "\r\n");
}

}  // namespace

TEST_CASE("requests") {
    CHECK(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        == "done GET / 0 1.1 keeps 0; Host=[a]; ; 0 unread");
    CHECK(request("GET / HTTP/1.0\r\n\r\n") == "done GET / 0 1.0 closes 0;; ; 0 unread");
    CHECK(request("\r\n\r\nM-SEARCH * HTTP/1.1\r\nhOST:\r\nx: \t a \t b \t \r\ny:z\r\n\r\n")
        == "done M-SEARCH * 0 1.1 keeps 0; hOST=[] x=[a \t b] y=[z]; ; 0 unread");
    CHECK(request("POST /%00?a=b#c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET")
        == "done POST /%00?a=b#c 0 1.1 keeps 3; Host=[a] Content-Length=[3]; abc; 3 unread");
    CHECK(request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab")
        == "in the body POST / 0 1.1 keeps 3; Host=[a] Content-Length=[3]; ab; 0 unread");
    CHECK(request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nab")
        == "done POST / 0 1.1 keeps 0; Host=[a] Content-Length=[0]; ; 2 unread");
    CHECK(request("GET / HTTP/1.1\r\nHost: a\r\n")
        == "in the head GET / 0 1.1 keeps -1; Host=[a]; ; 0 unread");
    CHECK(request("GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n")
        == "done GET / 0 1.1 keeps 0; Host=[\xc3\xa9]; ; 0 unread");
}

TEST_CASE("chunks") {
    const std::string head = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
    const std::string all =
        "done PUT / 0 1.1 keeps -1 chunked; Host=[a] Transfer-Encoding=[Chunked]; ";
    CHECK(request(head + "0\r\n\r\n") == all + "; 0 unread");
    CHECK(request(head + "3\r\nabc\r\n1A;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n000\r\n\r\n+")
        == all + "abcabcdefghijklmnopqrstuvwxyz; 1 unread");
    CHECK(request(head + "2\r\n\r\n\r\n0\r\nContent-Length: 7\r\nB: c\r\n\r\n")
        == all + "\r\n; 0 unread");
    CHECK(request(head + "0\r\nConnection: close\r\n\r\n") == all + "; 0 unread");
    CHECK(request(head + "3\r\nabcd\r\n") == "400 a chunk is longer than it says");
    CHECK(request(head + "3\r\nabc\r\r").starts_with("400 CR or LF"));
    CHECK(request(head + "3\r\nabc4\r\n") == "400 a chunk is longer than it says");
    for (const char* size :
        {"", " 3", "3 ", "-3", "+3", "0x3", "g", "1234567890abcdef", ";x", "-0"})
        CHECK(request(head + size + "\r\nabc\r\n") == "400 no number");
    CHECK(request(head + "3\nabc\r\n") == "400 CR or LF alone");
    CHECK(request(head + "0\r\nno field\r\n\r\n") == "400 a field without a colon");
    CHECK(request(head + "0\r\nHost: b\r\n\r\n") == "400 a field is there twice");
    CHECK(request(head + "3;" + std::string(parser::max_line, 'x')) == "431 a line is too long");
    std::string lines;
    for (int i = 0; i < 40; ++i) lines += "x: " + std::string(1000, 'x') + "\r\n";
    CHECK(read(parser::request, {head + "0\r\n" + lines}) == "431 the head is too large");
}

TEST_CASE("responses") {
    CHECK(response("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        == "done   200 1.1 keeps 2; Content-Length=[2]; ok; 0 unread");
    CHECK(response("HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n")
        == "done   404 1.1 keeps 0; Content-Length=[0]; ; 0 unread");
    CHECK(response("HTTP/1.0 200 \r\n\r\nto the end")
        == "in the body   200 1.0 closes -1;; to the end; 0 unread");
    CHECK(response("HTTP/1.0 200 \r\n\r\nto the end", true)
        == "done   200 1.0 closes -1;; to the end; 0 unread");
    CHECK(response("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok", true)
        == "400 the message is cut off");
    CHECK(response("HTTP/1.1 200 OK\r\n", true) == "400 the message is cut off");
    CHECK(response("", true) == "400 the message is cut off");
    CHECK(response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", true)
        == "400 the message is cut off");
    CHECK(response("HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n")
        == "done   304 1.1 keeps 0; Content-Length=[20]; ; 0 unread");
    CHECK(response("HTTP/1.1 204 No Content\r\n\r\nx") == "done   204 1.1 keeps 0;; ; 1 unread");
    CHECK(response("HTTP/1.1 100 Continue\r\n\r\nHTTP") == "done   100 1.1 keeps 0;; ; 4 unread");
    CHECK(
        every_way(parser::response_to_head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        == "done   200 1.1 keeps 0; Transfer-Encoding=[chunked]; ; 0 unread");
    for (const char* line : {"HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200 OK",
             "HTTP/1.1 099 x", "HTTP/1.1 600 x", "HTTP/1.1 !20 OK", "HTTP/1.1"})
        CHECK(response(std::string(line) + "\r\n\r\n") == "400 no status");
    CHECK(response("HTTP/1.1 2x0 OK\r\n\r\n") == "400 no number");
    CHECK(response("HTTP/2.0 200 OK\r\n\r\n") == "505 not HTTP/1");
    CHECK(response("HTTP/2 200 OK\r\n\r\n") == "400 not HTTP/1");
    CHECK(response("\r\nHTTP/1.1 200 OK\r\n\r\n") == "400 not HTTP/1");
    CHECK(response("220 smtp ready\r\n") == "400 not HTTP/1");
}

TEST_CASE("whether another message may follow") {
    for (const char* closing :
        {"close", "Close", "x, close", "close,x", "keep-alive , close", ",, close"})
        CHECK(
            with("Host: a\r\nConnection: " + std::string(closing) + "\r\n").find(" closes ") < 30);
    for (const char* keeping : {"keep-alive", "closed", "x", "", "not-close", ","})
        CHECK(with("Host: a\r\nConnection: " + std::string(keeping) + "\r\n").find(" keeps ") < 30);
    CHECK(with("Connection: x\r\nHost: a\r\nConnection: close\r\n").find(" closes ") < 30);
    CHECK(request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").find(" keeps ") < 30);
}

TEST_CASE("lines that are none") {
    CHECK(with("Host: a\n") == "400 CR or LF alone");
    CHECK(request("GET / HTTP/1.1\nHost: a\n\n") == "400 CR or LF alone");
    CHECK(with("Host: a\rb\r\n") == "400 CR or LF alone");
    CHECK(with("Host: a\r\r\n") == "400 CR or LF alone");
    CHECK(with(std::string("Host: a\0b\r\n", 11)) == "400 a control character");
    CHECK(with("Host: a\x1b\r\n") == "400 a control character");
    CHECK(with("Host: a\x7f\r\n") == "400 a control character");
    CHECK(with("Host : a\r\n") == "400 no name of a field");
    CHECK(with("Host\t: a\r\n") == "400 no name of a field");
    CHECK(with(" Host: a\r\n") == "400 no name of a field");
    CHECK(with("Host: a\r\nX: y\r\n folded: z\r\n") == "400 no name of a field");
    CHECK(with("Host: a\r\nX: y\r\n\tfolded\r\n") == "400 a field without a colon");
    CHECK(with("Host: a\r\n: b\r\n") == "400 no name of a field");
    CHECK(with("Host: a\r\nX\xc3\xa9: b\r\n") == "400 no name of a field");
    CHECK(with("Host: a\r\nnothing\r\n") == "400 a field without a colon");
}

TEST_CASE("request lines that are none") {
    const auto line = [](const char* text) {
        return request(text + std::string("\r\nHost: a\r\n\r\n"));
    };
    CHECK(line("GET /") == "400 not HTTP/1");
    CHECK(line("GET  / HTTP/1.1") == "400 no target");
    CHECK(line("GET / HTTP/1.1 ") == "400 not HTTP/1");
    CHECK(line("GET /a b HTTP/1.1") == "400 not HTTP/1");
    CHECK(line("GET / HTTP/1.2") == "505 not HTTP/1");
    CHECK(line("GET / HTTP/2.0") == "505 not HTTP/1");
    CHECK(line("GET / http/1.1") == "400 not HTTP/1");
    CHECK(line("GET /\xff HTTP/1.1") == "400 no target");
    CHECK(line("GET\t/ HTTP/1.1") == "400 no method");
    CHECK(line(" GET / HTTP/1.1") == "400 no method");
    CHECK(line("G(T / HTTP/1.1") == "400 no method");
    CHECK(line("GET") == "400 no target");
    CHECK(line("PRI * HTTP/2.0") == "505 not HTTP/1");
    CHECK(request("\x16\x03\x01\x02") == "400 a control character");  // TLS
}

TEST_CASE("lengths: one, in digits, and none beside chunks") {
    const auto body = [](const std::string& lines) { return with("Host: a\r\n" + lines); };
    CHECK(body("Content-Length: 1\r\nContent-Length: 1\r\n") == "400 a field is there twice");
    CHECK(body("Content-Length: 1\r\ncontent-length: 2\r\n") == "400 a field is there twice");
    for (const char* length :
        {"", "-1", "+1", "1, 1", "1 1", "0x1", "1.0", "a", "-0", "1234567890123456789"})
        CHECK(body("Content-Length: " + std::string(length) + "\r\n") == "400 no number");
    CHECK(body("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")
        == "400 chunks beside a length, or in HTTP/1.0");
    CHECK(body("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n")
        == "400 chunks beside a length, or in HTTP/1.0");
    CHECK(request("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
        == "400 chunks beside a length, or in HTTP/1.0");
    CHECK(body("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")
        == "400 a field is there twice");
    for (const char* coding :
        {"gzip", "gzip, chunked", "chunked, gzip", "identity", "", "xchunked", "\vchunked"})
        CHECK(body("Transfer-Encoding: " + std::string(coding) + "\r\n")
            == (*coding == '\v' ? "400 a control character" : "501 an unknown transfer coding"));
    CHECK(with("") == "400 no Host");
    CHECK(with("Host: a\r\nHost: a\r\n") == "400 a field is there twice");
    for (const char* host : {"a b", "a\tb", "a/b", "http://a", "a?b", "a#b", "b@a", "a\\b"})
        CHECK(with("Host: " + std::string(host) + "\r\n") == "400 no host in Host");
    for (const char* host : {"", "a.example:80", "[::1]:8080", "a_b~c!%20,"})
        CHECK(with("Host: " + std::string(host) + "\r\n").starts_with("done"));
}

TEST_CASE("everything is bounded, to the byte") {
    const auto line_of = [](std::size_t n) {
        return "GET /" + std::string(n - 14, 'x') + " HTTP/1.1";
    };
    const auto field_of = [](std::size_t n) { return "x: " + std::string(n - 3, 'x'); };
    const auto read_whole = [](const std::string& text) { return read(parser::request, {text}); };
    CHECK(read_whole(line_of(parser::max_line) + "\r\nHost: a\r\n\r\n").starts_with("done"));
    CHECK(read_whole(line_of(parser::max_line + 1)) == "414 a line is too long");
    const std::string start = "GET / HTTP/1.1\r\nHost: a\r\n";
    CHECK(read_whole(start + field_of(parser::max_line) + "\r\n\r\n").starts_with("done"));
    CHECK(read_whole(start + field_of(parser::max_line + 1)) == "431 a line is too long");
    std::string full = start;
    while (full.size() + 1002 < parser::max_head) full += field_of(1000) + "\r\n";
    full += field_of(parser::max_head - full.size() - 4) + "\r\n";
    CHECK(read_whole(full + "\r\n").starts_with("done"));
    CHECK(read_whole(full + "y\r\n") == "431 the head is too large");
    std::string many = start;
    for (std::size_t i = 1; i < parser::max_fields; ++i) many += "x:\r\n";
    CHECK(read_whole(many + "\r\n").starts_with("done"));
    CHECK(read_whole(many + "x:\r\n") == "431 too many fields");
    std::string lines;  // without end before a request
    while (lines.size() <= parser::max_head) lines += "\r\n";
    CHECK(read_whole(lines) == "431 the head is too large");
}

TEST_CASE("a body of any size; many small chunks do not use up the bound of the head") {
    parser p(parser::request);
    std::string text = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (int i = 0; i < 20000; ++i) text += "1\r\nx\r\n";
    text += "0\r\n\r\n";
    std::string_view in = text;
    std::size_t got = 0;
    while (!in.empty() && !p.done()) got += p.feed(in).size();
    CHECK(p.done());
    CHECK(got == 20000);
}

TEST_CASE("messages one behind the other") {
    const std::string text = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\n"
                             "Content-Length: 4\r\n\r\nbody\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n";
    std::string_view in = text;
    for (const char* target : {"/a", "/b", "/c"}) {
        parser p(parser::request);
        while (!in.empty() && !p.done()) p.feed(in);
        CHECK(p.done());
        CHECK(p.target == target);
    }
    CHECK(in.empty());
}

TEST_CASE("names are the same whatever their case, of ASCII letters alone") {
    const std::string upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", lower = "abcdefghijklmnopqrstuvwxyz";
    CHECK(same(upper, lower));
    int wrong = 0;
    for (int a = 0; a < 256; ++a)
        for (int b = 0; b < 256; ++b) {
            const char x = static_cast<char>(a), y = static_cast<char>(b);
            const std::size_t at = upper.find(x), other = upper.find(y);
            const char p = at == upper.npos ? x : lower[at];
            const char q = other == upper.npos ? y : lower[other];
            wrong += same({&x, 1}, {&y, 1}) != (p == q);
        }
    CHECK(wrong == 0);
    CHECK_FALSE(same({"a\0b", 3}, {"a\0c", 3}));
    CHECK_FALSE(same("a", "ab"));
}
