// stepper/recorder.hpp: writes down a run, for a page that replays it.
//
//     #include "recorder.hpp"
//     ringlet::task<> root() {
//         stepper::show("here I am");
//         co_return;
//     }
//     int main() { return stepper::record(root); }
//
// What is written down comes from the public interface alone: the executor's hooks say who is
// spawned, run and finished, and where; dump() says what each task waits for; reactor::on_submit
// sees each request (those to cancel are left out), and reactor::stats() counts them. The clock is a
// virtual_time, so that a run is the same each time. The result is JSON on the standard output: one
// object for each moment.
#pragma once

#include <ringlet/timer.hpp>

#include <cstdio>
#include <string>

namespace stepper {

using source = std::source_location;

class recorder {
public:
    recorder() {
        ex.hooks.context = this;
        ex.hooks.on_spawn = [](void* c, const ringlet::job_info& j) { of(c).note("spawn", j); };
        ex.hooks.before_run = [](void* c, const ringlet::job_info& j) { of(c).note("resume", j); };
        ex.hooks.after_run = [](void* c, const ringlet::job_info& j) { of(c).note("leave", j); };
        ex.hooks.on_finish = [](void* c, const ringlet::job_info& j) { of(c).note("finish", j); };
        ringlet::reactor::on_submit = [](io_uring_sqe* request) {
            if (request->opcode == IORING_OP_ASYNC_CANCEL) return;
            current->note("submit", current->running, current->at, std::to_string(request->opcode));
        };
        current = this;
    }
    recorder(recorder&&) = delete;
    ~recorder() { ringlet::reactor::on_submit = nullptr; }

    template <class F> void run(F& root, source where) {
        try {
            ex.run(root(), where);
        } catch (const std::exception& e) { note("error", "", source(), e.what()); }
        ex.hooks = {};  // what is left is cancelled when the executor ends: no part of the run
        std::printf("\n]\n");
    }
    // One moment: what has happened, to which job, at which place, and how things stand.
    void note(const char* event, const std::string& job, source at_place, const std::string& text) {
        std::string dump;
        ex.dump(dump);
        const auto time = ringlet::virtual_time::nanoseconds() - begin;
        std::printf("%s\n{\"event\":%s,\"job\":%s,\"place\":%s,\"text\":%s,\"us\":%ld,\"dump\":%s",
            count++ ? "," : "[", quoted(event).c_str(), quoted(job).c_str(),
            quoted(place(at_place)).c_str(), quoted(text).c_str(), static_cast<long>(time / 1000),
            quoted(dump).c_str());
        if (ex.io) {  // to ask for the figures of a reactor would make one
            const auto& s = ringlet::reactor::stats();
            std::printf(",\"enters\":%lu,\"submitted\":%lu,\"completed\":%lu,\"in_flight\":%u",
                static_cast<unsigned long>(s.enters), static_cast<unsigned long>(s.submitted),
                static_cast<unsigned long>(s.completed), s.in_flight);
        }
        std::printf("}");
    }
    void show(const std::string& text, source where) { note("show", running, where, text); }

    inline static recorder* current = nullptr;

private:
    // A job is called by the place of its spawn: the programs spawn one at a place.
    void note(const char* event, const ringlet::job_info& j) {
        running = place(j.spawned);
        at = j.where;
        note(event, running, j.where, "");
    }
    static recorder& of(void* context) { return *static_cast<recorder*>(context); }
    static std::string place(source s) {
        return std::string(s.file_name()) + ":" + std::to_string(s.line());
    }
    static std::string quoted(const std::string& text) {
        std::string out = "\"";
        for (const char c : text) {
            if (c == '"' || c == '\\') out += '\\';
            out += c == '\n' ? "\\n" : std::string(1, c);
        }
        return out + '"';
    }

    ringlet::virtual_time clock;
    std::int64_t begin = ringlet::virtual_time::nanoseconds();
    std::string running;  // the job
    source at;            // where it was resumed
    int count = 0;
    ringlet::executor ex;
};

// What the program prints, and a moment of its own.
inline void show(const std::string& text, source where = source::current()) {
    recorder::current->show(text, where);
}
template <class F> int record(F root, source where = source::current()) {
    recorder().run(root, where);
    return 0;
}

}  // namespace stepper
