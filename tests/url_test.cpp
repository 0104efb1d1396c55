// recipes/url.hpp: what a URL says, what is none, and RFC 3986's own list of references.
#include <doctest/doctest.h>

#include <ringlet/recipes/url.hpp>

using ringlet::url;

namespace {

std::string parts(const char* text) {
    try {
        const url u(text);
        return (u.secure ? "s " : "- ") + u.host + " " + u.port + " " + u.target + " "
            + u.authority();
    } catch (const std::invalid_argument& e) { return e.what(); }
}
// Each of these must be refused in words that name it.
bool is_none(const std::string& text) { return parts(text.c_str()) == "no http URL: " + text; }

}  // namespace

TEST_CASE("the parts of a URL") {
    CHECK(parts("http://a") == "- a 80 / a");
    CHECK(parts("HTTPS://a/b?c#d") == "s a 443 /b?c a");
    CHECK(parts("https://a.b-c:8443?q=http://x/") == "s a.b-c 8443 /?q=http://x/ a.b-c:8443");
    CHECK(parts("http://[::1]/") == "- ::1 80 / [::1]");
    CHECK(parts("http://[::1]:81/x") == "- ::1 81 /x [::1]:81");
    CHECK(parts("https://a:443/") == "s a 443 / a");
    CHECK(parts("http://a:443/%20") == "- a 443 /%20 a:443");
    CHECK(parts("http://a:/") == "- a 80 / a");
    CHECK(parts("http://a/\xc3\xa9?\xff\x80%#\xe9") == "- a 80 /%C3%A9?%FF%80% a");
    CHECK(url("http://a/b/").resolved("../\xc3\xa9").text() == "http://a/%C3%A9");
    CHECK(parts("http://\xc3\xa9/") == "no http URL: http://\xc3\xa9/");
}

TEST_CASE("what is none") {
    for (const char* text : {"", "http", "http:", "http:/", "http://", "http:///x", "//a", "a",
             "ftp://a", "file:///etc/passwd", "http://user@a/", "http://user:word@a/",
             "http://a b/", "http://a/b c", "http://a/\r\nX: y", "http://a:b/", "http://a:1234567/",
             "http://a:65536/", "http://a:99999/", "http://a:-1", "http://a:+1", "http://[::1",
             "http://[::1]x/", "http://[]/", "http://a[/", "http:a/", "http:\\\\a/", "http://a\\b/",
             "http://%61/", " http://a", "javascript:x"})
        CHECK_MESSAGE(is_none(text), text);
}

TEST_CASE("references: the examples of RFC 3986, 5.4") {
    const url base("http://a/b/c/d;p?q");
    const std::pair<const char*, const char*> list[] = {{"g", "http://a/b/c/g"},
        {"./g", "http://a/b/c/g"}, {"g/", "http://a/b/c/g/"}, {"/g", "http://a/g"},
        {"//g", "http://g/"}, {"//g/x/../y/.", "http://g/y/"},
        {"http://g/./x/../y?a/../b", "http://g/y?a/../b"}, {"?y", "http://a/b/c/d;p?y"},
        {"g?y", "http://a/b/c/g?y"}, {"#s", "http://a/b/c/d;p?q"}, {"g#s", "http://a/b/c/g"},
        {"g?y#s", "http://a/b/c/g?y"}, {";x", "http://a/b/c/;x"}, {"g;x", "http://a/b/c/g;x"},
        {"", "http://a/b/c/d;p?q"}, {".", "http://a/b/c/"}, {"./", "http://a/b/c/"},
        {"..", "http://a/b/"}, {"../", "http://a/b/"}, {"../g", "http://a/b/g"},
        {"../..", "http://a/"}, {"../../", "http://a/"}, {"../../g", "http://a/g"},
        {"../../../g", "http://a/g"}, {"../../../../g", "http://a/g"}, {"/./g", "http://a/g"},
        {"/../g", "http://a/g"}, {"g.", "http://a/b/c/g."}, {".g", "http://a/b/c/.g"},
        {"g..", "http://a/b/c/g.."}, {"..g", "http://a/b/c/..g"}, {"./../g", "http://a/b/g"},
        {"./g/.", "http://a/b/c/g/"}, {"g/./h", "http://a/b/c/g/h"}, {"g/../h", "http://a/b/c/h"},
        {"g;x=1/./y", "http://a/b/c/g;x=1/y"}, {"g;x=1/../y", "http://a/b/c/y"},
        {"g?y/./x", "http://a/b/c/g?y/./x"}, {"g?y/../x", "http://a/b/c/g?y/../x"},
        {"https://x:444/y", "https://x:444/y"}, {"/g?u=http://x", "http://a/g?u=http://x"}};
    for (const auto& [reference, target] : list) {
        CAPTURE(reference);
        CHECK(base.resolved(reference).text() == target);
    }
    CHECK(url("https://[::1]:8/a").resolved("b").text() == "https://[::1]:8/b");
    CHECK_THROWS_AS(base.resolved("mailto:x"), std::invalid_argument);
    CHECK_THROWS_AS(base.resolved("g h"), std::invalid_argument);
    CHECK_THROWS_AS(base.resolved("g\r\nX: y"), std::invalid_argument);
}
