// recipes/http1_path.hpp: from the target of a request to a file's path, and back.
//
//     #include <ringlet/recipes/http1_path.hpp>
//     std::string path = ringlet::http1::path_of("/a%20file.html?x=1");  // "./a file.html"
//     const char* type = ringlet::http1::type_of(path);                  // "text/html; ..."
//
// A path may still hold dots, coded or not. What they lead to is not to be guessed from the text: see
// open_beneath.hpp.
#pragma once

#include "http1_words.hpp"

namespace ringlet::http1 {

// The part of a target that names a file: it begins with a slash, exactly one. Throws error.
inline std::string_view path_part(std::string_view target) {
    const bool whole = same(target.substr(0, 7), "http://");
    target = cut(target, '?');
    if (whole) target.remove_prefix(std::min(target.find('/', 7), target.size()));
    if (whole && target.empty()) target = "/";
    require(target.starts_with('/'), "no path");
    return target.substr(std::min(target.find_first_not_of('/'), target.size()) - 1);
}
// The target of a directory whose name was asked for without the slash behind it. Throws error.
inline std::string with_slash(std::string_view target) {
    const auto query = target.substr(std::min(target.find('?'), target.size()));
    return std::string(path_part(target)).append("/").append(query);
}
// The path that a target means, below a root, in the manner of "./a/b", with %xx decoded. Throws error.
inline std::string path_of(std::string_view target) {
    std::string path = ".";
    for (target = path_part(target); !target.empty(); target.remove_prefix(1)) {
        const bool coded = target.front() == '%';
        require(!coded || target.size() > 2, "half of a coded byte");
        path += coded ? static_cast<char>(number(target.substr(1, 2), 2, 16)) : target.front();
        if (coded) target.remove_prefix(2);
    }
    require(path.find('\0') == path.npos, "NUL in a path");
    return path;
}

inline const char* type_of(std::string_view path) {
    static constexpr std::pair<std::string_view, const char*> types[] = {
        {"html", "text/html; charset=utf-8"}, {"css", "text/css; charset=utf-8"},
        {"js", "text/javascript; charset=utf-8"}, {"txt", "text/plain; charset=utf-8"},
        {"json", "application/json"}, {"pdf", "application/pdf"}, {"png", "image/png"},
        {"jpg", "image/jpeg"}, {"jpeg", "image/jpeg"}, {"gif", "image/gif"},
        {"svg", "image/svg+xml"}, {"webp", "image/webp"}, {"ico", "image/x-icon"},
        {"wasm", "application/wasm"}, {"xml", "application/xml"}, {"mp4", "video/mp4"}};
    for (const auto& [ending, type] : types)
        if (same(path.substr(path.rfind('.') + 1), ending)) return type;
    return "application/octet-stream";
}

}  // namespace ringlet::http1
