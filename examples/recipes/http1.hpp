// recipes/http1.hpp: HTTP/1.1 messages, read strictly. No I/O in it: bytes go in, a message comes out.
//
//     #include <ringlet/recipes/http1.hpp>
//     ringlet::http1::parser request(ringlet::http1::parser::request);
//     while (!request.done()) {
//         std::string_view bytes = co_await receive_some(client);
//         if (bytes.empty()) request.end();  // throws: too early
//         while (!bytes.empty() && !request.done()) store(request.feed(bytes));
//     }
//     const std::string* host = request.find("host");
//
// The parser goes byte by byte where there are lines, and so cannot depend on how the bytes are cut
// into reads. A line ends with CR LF; LF alone, a CR anywhere else, NUL and other control characters
// are errors. All is bounded: a line, the head, the number of fields, the digits of a number. What is
// in the lines is the business of http1_head.hpp.
//
// The life of a message:
//
//            (1)         (2)
//     START ----> FIELDS ---------------------------------------> ENDED
//                  | | |  (3)             as many bytes            ^ ^ ^
//                  | | +------> SIZED -----------------------------+ | |
//                  | |    (4)                 end()                  | |
//                  | +--------> UNTIL_CLOSE -------------------------+ |
//                  |      (5)               (6)               (7)      |
//                  +----------> CHUNK_SIZE -----> TRAILERS ------------+
//                        (8)    |        ^  (9)
//                  its bytes <--+        +------ CHUNK_END <-- its bytes
//
//     (1) the request or status line    (2) an empty line, and no body: a request without a length,
//     an answer to HEAD, the status 1xx, 204 or 304    (3) there is a Content-Length    (4) a
//     response without one ends with its connection    (5) Transfer-Encoding: chunked    (6) a chunk
//     of size 0    (7) an empty line    (8) any other size    (9) an empty line
#pragma once

#include "http1_head.hpp"

namespace ringlet::http1 {

// One message. After an error it is of no use any more.
class parser : public head {
public:
    static constexpr std::size_t max_line = 8192, max_head = 32768;
    enum kind { request, response, response_to_head };

    explicit parser(kind k) : what(k) {}

    bool head_done() const { return state > in_fields; }
    bool done() const { return state == ended; }
    // Takes bytes away from the front of `in`: up to the end of the head, of a piece of the body, or
    // of the message. Gives the piece of the body, which is a part of what `in` was. Throws error.
    std::string_view feed(std::string_view& in) {
        for (const bool before = head_done(); !in.empty() && !done() && before == head_done();) {
            if (left) return take_data(in);
            take(in.front());
            in.remove_prefix(1);
        }
        return {};
    }
    // The connection has ended. Throws error if that is too early.
    void end() {
        require(state == ended || state == until_close, "the message is cut off");
        state = ended;
        left = 0;
    }

private:
    enum { start, in_fields, sized, until_close, chunk_size, chunk_end, trailers, ended };

    std::string_view take_data(std::string_view& in) {
        const auto piece = in.substr(0, left);
        in.remove_prefix(piece.size());
        left -= piece.size();
        if (!left && state == sized) state = ended;
        return piece;
    }
    void take(char c) {
        require(++size <= max_head, "the head is too large", 431);
        require((c == '\n') == cr, "CR or LF alone");
        cr = c == '\r';
        if (c == '\n') {
            take_line();
            line.clear();
        } else if (!cr) {
            require(c == '\t' || ((c & 0xff) >= ' ' && c != 127), "a control character");
            line += c;
            require(line.size() <= max_line, "a line is too long", state == start ? 414 : 431);
        }
    }
    void take_line() {
        if (state == start) {
            if (what == request && line.empty()) return;  // one too many behind the last body
            what == request ? take_request(line) : take_status(line);
            state = in_fields;
        } else if (state == chunk_size) {
            std::string_view rest = line;
            left = static_cast<std::size_t>(number(cut(rest, ';'), 15, 16));
            state = left ? chunk_end : trailers;
            size = 0;  // what is between two chunks has the bound of a head
        } else if (state == chunk_end) {
            require(line.empty(), "a chunk is longer than it says");
            state = chunk_size;
        } else if (!line.empty()) {
            const bool closed = closes;
            take_field(line);
            if (state == trailers) fields.pop_back(), closes = closed;  // too late to count
        } else state == trailers ? void(state = ended) : begin_body();
    }
    void begin_body() {
        check(what == request);
        if (what == response_to_head || status / 100 == 1 || status == 204 || status == 304)
            length = 0, chunked = false;
        size = 0;
        state = chunked ? chunk_size : length < 0 ? until_close : length > 0 ? sized : ended;
        if (!chunked) left = length < 0 ? SIZE_MAX : static_cast<std::size_t>(length);
    }

    kind what;
    int state = start;
    bool cr = false;       // was the last byte
    std::size_t size = 0;  // of what is bounded as a head
    std::size_t left = 0;  // of the body or of the chunk: bytes to be passed on as they are
    std::string line;
};

}  // namespace ringlet::http1
