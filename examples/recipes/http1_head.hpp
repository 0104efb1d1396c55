// recipes/http1_head.hpp: what the lines of an HTTP/1.1 head mean. http1.hpp finds the lines.
//
//     #include <ringlet/recipes/http1_head.hpp>
//     ringlet::http1::head h;
//     h.take_request("GET /a.html HTTP/1.1");
//     h.take_field("Host: example.org");
//     h.check(true);
//
// What a peer sends is hostile until it is shown to be a message, and where two programs read the
// same bytes differently, one of them can be deceived (request smuggling). So what RFC 9112 lets a
// recipient repair is refused: folded lines, space before a colon, a second length or host, a length
// beside chunks, a number with a sign, and whatever is not HTTP/1.0 or HTTP/1.1.
#pragma once

#include "http1_words.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace ringlet::http1 {

// What a head says.
struct head {
    static constexpr std::size_t max_fields = 100;
    std::string method, target;  // of a request; the target as it was sent: encoded
    int status = 0;              // of a response
    int minor = 0;               // the second 1 of HTTP/1.1
    std::vector<std::pair<std::string, std::string>> fields;
    std::int64_t length = -1;  // of the body, if it is known
    bool chunked = false, closes = false, keeps = false;

    // The first field of that name, or nullptr.
    const std::string* find(std::string_view name) const {
        const auto named = [name](const auto& f) { return same(f.first, name); };
        const auto found = std::ranges::find_if(fields, named);
        return found == fields.end() ? nullptr : &found->second;
    }
    // May another message follow on this connection?
    bool keep_alive() const { return !closes && (minor == 1 || keeps); }

    void take_request(std::string_view s) {
        method = cut(s, ' '), target = cut(s, ' ');
        const auto visible = [](char c) { return c > ' ' && c < 127; };
        require(is_token(method), "no method");
        require(!target.empty() && std::ranges::all_of(target, visible), "no target");
        take_version(s);
    }
    void take_status(std::string_view s) {
        take_version(cut(s, ' '));
        const auto code = cut(s, ' ');
        require(code.size() == 3 && code >= "100" && code < "600", "no status");
        status = static_cast<int>(number(code, 3));
    }
    void take_field(std::string_view s) {
        require(fields.size() < max_fields, "too many fields", 431);
        require(s.find(':') != s.npos, "a field without a colon");
        const auto name = cut(s, ':'), value = s = trimmed(s);
        require(is_token(name), "no name of a field");
        for (const auto* once : {"host", "content-length", "transfer-encoding"})
            require(!same(name, once) || !find(once), "a field is there twice");
        fields.emplace_back(name, value);
        while (same(name, "connection") && !s.empty()) {
            const auto option = trimmed(cut(s, ','));
            closes |= same(option, "close"), keeps |= same(option, "keep-alive");
        }
    }
    // When all fields have been taken.
    void check(bool is_request) {
        const std::string *const size = find("content-length"),
                                 *const coding = find("transfer-encoding");
        const std::string* const host = find("host");
        require(!is_request || minor == 0 || host, "no Host");
        require(!is_request || !host || host->find_first_of(" \t/?#@\\\"<>") == host->npos,
            "no host in Host");
        require(!coding || (minor == 1 && !size), "chunks beside a length, or in HTTP/1.0");
        require(!coding || same(*coding, "chunked"), "an unknown transfer coding", 501);
        chunked = coding;
        if (size || (is_request && !coding)) length = size ? number(*size, 18) : 0;
    }

private:
    void take_version(std::string_view s) {
        const int refusal = s.size() == 8 && s.starts_with("HTTP/") ? 505 : 400;
        require(s == "HTTP/1.1" || s == "HTTP/1.0", "not HTTP/1", refusal);
        minor = s.back() - '0';
    }
};

}  // namespace ringlet::http1
