// recipes/url.hpp: where an http or https URL points to, and where a redirect from there leads.
//
//     #include <ringlet/recipes/url.hpp>
//     ringlet::url u("https://example.org:8443/a/b?x#part");
//     // u.secure, u.host == "example.org", u.port == "8443", u.target == "/a/b?x"
//     ringlet::url next = u.resolved("../c");  // https://example.org:8443/c
#pragma once

#include "http1_words.hpp"

#include <algorithm>
#include <cstdlib>

namespace ringlet {

struct url {
    bool secure = false;
    // An IPv6 address is without its brackets. Of the target bytes over 127 are coded, as %C3%A9 for
    // the letter e with an acute: so they are sent.
    std::string host, port, target;

    // Throws std::invalid_argument that names what is no URL.
    explicit url(std::string_view text) {
        std::string_view s = text.substr(0, text.find('#'));
        const auto scheme = http1::cut(s, ':');
        secure = http1::same(scheme, "https");
        bool good = (secure || http1::same(scheme, "http")) && s.starts_with("//");
        s.remove_prefix(std::min<std::size_t>(s.size(), 2));
        std::string_view authority = s.substr(0, s.find_first_of("/?"));
        s.remove_prefix(authority.size());
        target = coded(s.starts_with('/') ? std::string(s) : "/" + std::string(s));
        const bool bracketed = authority.starts_with('[');
        good &= !bracketed || authority.find(']') != authority.npos;
        host = http1::cut(authority, bracketed ? ']' : ':');
        if (bracketed) host.erase(0, 1), good &= authority.empty() || authority.front() == ':';
        if (bracketed && !authority.empty()) authority.remove_prefix(1);
        port = authority.empty() ? secure ? "443" : "80" : std::string(authority);
        const auto is_printable = [](char c) { return c > ' ' && c != 127; };
        good &= !host.empty() && host.find_first_of("@\\[%") == host.npos && port.size() < 6;
        good &= port.find_first_not_of("0123456789") == port.npos
            && std::atoi(port.c_str()) < 65536;
        good &= std::ranges::all_of(host + target, is_printable);
        if (!good) throw std::invalid_argument("no http URL: " + std::string(text));
    }
    // As the field Host says it: without the scheme's own port.
    std::string authority() const {
        const std::string name = host.find(':') == host.npos ? host : "[" + host + "]";
        return port == (secure ? "443" : "80") ? name : name + ":" + port;
    }
    std::string text() const { return (secure ? "https://" : "http://") + authority() + target; }
    // Where a reference leads from here (RFC 3986, 5.2). Throws std::invalid_argument.
    url resolved(std::string_view reference) const {
        const std::string scheme = secure ? "https:" : "http:";
        const std::string_view path = std::string_view(target).substr(0, target.find('?'));
        const std::size_t colon = reference.find(':');
        if (colon < reference.find_first_of("/?#")) return dotless(std::string(reference));
        if (reference.starts_with("//")) return dotless(scheme + std::string(reference));
        std::string to(reference.substr(0, reference.find('#')));
        if (to.empty()) to = target;
        else if (to[0] == '?') to.insert(0, path);
        else if (to[0] != '/') to.insert(0, path.substr(0, path.rfind('/') + 1));
        return dotless(scheme + "//" + authority() + to);
    }
    static url dotless(const std::string& text) {
        url u(text);
        u.target = without_dots(u.target);
        return u;
    }
    static std::string coded(std::string_view text) {
        static constexpr char digits[] = "0123456789ABCDEF";
        std::string all;
        for (const char c : text)
            if (const unsigned byte = c & 0xff; byte < 128) all += c;
            else (all += '%') += {digits[byte / 16], digits[byte % 16]};
        return all;
    }
    // "/a/./b/../c?x" is "/a/c?x".
    static std::string without_dots(std::string_view target) {
        std::string path;
        std::string_view rest = target.substr(0, target.find('?'));
        const std::string_view query = target.substr(rest.size());
        http1::cut(rest, '/');
        for (bool more = true; more;) {
            more = rest.find('/') != rest.npos;
            const auto segment = http1::cut(rest, '/');
            if (segment == "..") path.erase(std::min(path.rfind('/'), path.size()));
            if (segment != "." && segment != "..") path.append("/").append(segment);
            else if (!more) path += '/';
        }
        return path.append(query);
    }
};

}  // namespace ringlet
