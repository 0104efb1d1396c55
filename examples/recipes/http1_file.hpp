// recipes/http1_file.hpp: what a GET asks of a file. The rules of RFC 9110, without any I/O.
//
//     #include <ringlet/recipes/http1_file.hpp>
//     struct stat s = ...;  // of the file that path_of(request.target) names
//     ringlet::http1::answer a = ringlet::http1::select(request, s, path);
//     send_head(a.status, a.fields, a.end - a.begin);
//     send_bytes(file, a.begin, a.end);
#pragma once

#include "http1_head.hpp"
#include "http1_path.hpp"

#include <locale.h>
#include <sys/stat.h>

#include <cerrno>
#include <ctime>
#include <optional>
#include <system_error>

namespace ringlet::http1 {

struct answer {
    int status = 200;
    std::string fields;
    std::int64_t begin = 0, end = 0;  // of the part of the file that is sent
};

// The names of days and months are English, whatever the program's locale is.
inline constexpr const char* date_format = "%a, %d %b %Y %H:%M:%S GMT";
inline const locale_t english = ::newlocale(LC_ALL_MASK, "C", nullptr);
// A file may be of a time that is in no calendar, after billions of years: that is told as 1970.
inline std::string date(std::time_t t) {
    char text[64];
    std::tm parts;
    if (!::gmtime_r(&t, &parts)) return date(0);
    return {text, ::strftime_l(text, sizeof text, date_format, &parts, english)};
}

// The time that a field tells, if it is there and does: in the form that is written today; the two of
// before 1995 count as not there.
inline std::optional<std::time_t> time_of(const std::string* date) {
    std::tm t{};
    const char* const end = date ? ::strptime_l(date->c_str(), date_format, &t, english) : nullptr;
    return end && !*end ? std::optional(::timegm(&t)) : std::nullopt;
}

// Is the tag in a list of tags? Those that are weak count if `weak`. A star alone stands for any.
inline bool lists(std::string_view tags, std::string_view tag, bool weak) {
    bool found = tags == "*";
    while (!found && !tags.empty()) {
        const auto one = trimmed(cut(tags, ','));
        found = one.substr(weak && one.starts_with("W/") ? 2 : 0) == tag;
    }
    return found;
}
// One range of bytes: first-last, first- or -n. Anything else counts as not there, or throws the error
// of a number, as several ranges do.
inline void take_range(std::string_view range, answer& a) {
    const std::int64_t size = a.end;
    if (!same(cut(range, '='), "bytes") || range.find('-') == range.npos || range == "-") return;
    const auto first = cut(range, '-');
    const auto n = range.empty() ? size : number(range, 18);
    const auto begin = first.empty() ? size - std::min(n, size) : number(first, 18);
    if (first.empty() ? size == 0 : !range.empty() && n < begin) return;
    a.status = begin < size ? 206 : 416;
    a.begin = std::min(begin, size), a.end = first.empty() ? size : std::min(n + 1, size);
    const auto part = std::to_string(begin) + "-" + std::to_string(a.end - 1);
    a.fields += "Content-Range: bytes " + (begin < size ? part : "*") + "/" + std::to_string(size)
        + "\r\n";
}
// The status for a file that cannot be opened.
inline int status_of(const std::error_code& e) {
    const int n = e.value();
    const bool shortage = n == EMFILE || n == ENFILE || n == ENOMEM || n == EAGAIN;
    return n == EACCES ? 403 : shortage ? 503 : 404;
}
// What is asked of a file: all of it, a part, or nothing if the client has it already. The conditions
// in the order of RFC 9110, 13.2.2; throws error(412) if they say that it must be another file.
inline answer select(const head& request, const struct stat& s, std::string_view path) {
    answer a{200, {}, 0, s.st_size};
    const std::string tag = '"' + std::to_string(s.st_mtim.tv_sec) + '-'
        + std::to_string(s.st_mtim.tv_nsec) + '-' + std::to_string(s.st_size) + '"';
    const auto *tags = request.find("if-none-match"), *wanted = request.find("if-match");
    const auto since = time_of(request.find("if-modified-since")),
               until = time_of(request.find("if-unmodified-since"));
    // Of ranges only a GET knows.
    const auto* range = request.method == "GET" ? request.find("range") : nullptr;
    const auto* if_range = request.find("if-range");
    const std::string modified = date(s.st_mtime);
    require(wanted ? lists(*wanted, tag, false) : !until || s.st_mtime <= *until, "changed", 412);
    a.fields = std::string("Content-Type: ") + type_of(path) + "\r\nLast-Modified: " + modified
        + "\r\nETag: " + tag + "\r\nAccept-Ranges: bytes\r\n";
    if (tags ? lists(*tags, tag, true) : since && s.st_mtime <= *since) a.status = 304, a.end = 0;
    else if (range && (!if_range || *if_range == tag || *if_range == modified)) try {
            take_range(*range, a);
        } catch (const error&) {}  // of a number: no range either
    return a;
}

// The head of an answer with a body of that length. There is no reason phrase: nothing may depend on
// one.
inline std::string head_of(const answer& a, std::int64_t length, bool keep_alive) {
    return "HTTP/1.1 " + std::to_string(a.status) + " \r\nDate: " + date(std::time(nullptr))
        + "\r\nConnection: " + (keep_alive ? "keep-alive" : "close") + "\r\n" + a.fields
        + (a.status == 405 ? "Allow: GET, HEAD\r\n" : "")
        + (a.status == 304 ? "" : "Content-Length: " + std::to_string(length) + "\r\n") + "\r\n";
}

}  // namespace ringlet::http1
