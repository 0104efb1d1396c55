// recipes/http1_words.hpp: the words of HTTP/1.1, read strictly. For http1_head.hpp, and for whoever
// reads the value of a field.
//
//     #include <ringlet/recipes/http1_words.hpp>
//     std::string_view range = "bytes=0-499";
//     if (ringlet::http1::same(ringlet::http1::cut(range, '='), "bytes"))
//         first = ringlet::http1::number(ringlet::http1::cut(range, '-'), 18);
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ringlet::http1 {

// What is wrong with a message, and the status with which a server answers it.
struct error : std::runtime_error {
    int status;
    error(int s, const char* what) : std::runtime_error(what), status(s) {}
};
inline void require(bool right, const char* otherwise, int status = 400) {
    if (!right) throw error(status, otherwise);
}

// Names of fields, and some values, are compared without regard to case: that of ASCII. To strncasecmp
// I and i differ where the program's locale is Turkish, and TRANSFER-ENCODING would be overlooked.
inline bool same(std::string_view a, std::string_view b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; };
    return std::ranges::equal(a, b, {}, lower, lower);
}
// Takes what is in front of the first `at` away from s, with that; all of s if there is none.
inline std::string_view cut(std::string_view& s, char at) {
    const auto part = s.substr(0, s.find(at));
    s.remove_prefix(std::min(part.size() + 1, s.size()));
    return part;
}
inline std::string_view trimmed(std::string_view s) {
    s.remove_prefix(std::min(s.find_first_not_of(" \t"), s.size()));
    return s.substr(0, s.find_last_not_of(" \t") + 1);
}
inline bool is_token(std::string_view s) {
    static constexpr std::string_view others = "\"(),/:;<=>?@[\\]{}";
    const auto part = [](char c) { return c > ' ' && c < 127 && others.find(c) == others.npos; };
    return !s.empty() && std::ranges::all_of(s, part);
}
// All of s as a number. Throws error if it is none, or one of more than `most` digits.
inline std::int64_t number(std::string_view s, std::size_t most, int base = 10) {
    std::int64_t n = -1;
    const auto end = std::from_chars(s.data(), s.data() + s.size(), n, base).ptr;
    require(
        n >= 0 && s.front() != '-' && s.size() <= most && end == s.data() + s.size(), "no number");
    return n;
}

}  // namespace ringlet::http1
