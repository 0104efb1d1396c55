// recipes/trace.hpp: what ran when, and for how long. A trace to look at, and a warning of stalls.
//
//     #include <ringlet/recipes/trace.hpp>
//     int main() {
//         ringlet::executor ex;
//         ringlet::tracer trace(ex, "trace.json", std::chrono::milliseconds(10));
//         ex.run(root());
//     }
//
// Open the file in https://ui.perfetto.dev or https://www.speedscope.app: one track a task, named by
// the place of its spawn, and on it, named by the lines of the co_awaits, what the task did:
//
//     main.cpp:31   | wait main.cpp:31 | run | wait main.cpp:12            | run |
//                   ^ (1)              ^ (2) ^ (3)                               ^ (4)
//
//     (1) on_spawn: a track is begun.    (2) before_run: a wait is over, that for the first turn or
//     for what was awaited at this line; what comes after it is in the next slice.    (3) after_run: a
//     run is over. One that was longer than the limit is a line on stderr, that says between which
//     two co_awaits it was: nobody else could run meanwhile.    (4) on_finish: the task has ended,
//     and so has its track
//
// The time is the real one, also under virtual_time. An event costs about a microsecond. A trace that
// is not closed, after a crash, say, can be opened as well.
#pragma once

#include <ringlet/executor.hpp>

#include <chrono>
#include <cstdio>
#include <map>

namespace ringlet {

// Takes the executor's hooks, and puts back at its end what was there; inside a running executor it
// sees what comes after the present turn. Must end before the executor.
class tracer {
public:
    using microseconds = std::chrono::duration<double, std::micro>;

    // Throws std::system_error if the file cannot be made. `limit`: of a run, 0 for none. Stalls, and
    // a file that could not be written in the end, are told to `warnings`.
    tracer(executor& e, const std::string& file, microseconds limit = {}, std::FILE* w = stderr)
        : ex(e), before(e.hooks), stall(limit.count()), warnings(w) {
        out = std::fopen(file.c_str(), "we");
        if (!out) throw std::system_error(errno, std::generic_category(), "trace " + file);
        std::fputs("[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\"}", out);
        ex.hooks = {this, [](void* t, const job_info& j) { self(t).track_of(j); },
            [](void* t, const job_info& j) { self(t).turns(j, true); },
            [](void* t, const job_info& j) { self(t).turns(j, false); },
            [](void* t, const job_info& j) { self(t).tracks.erase(j.id); }};
    }
    tracer(tracer&&) = delete;
    ~tracer() { close(); }
    // Completes the file; nothing more is traced.
    void close() {
        if (!out) return;
        ex.hooks = before;
        for (const auto& [id, t] : tracks) slice(t, t.runs ? "run" : "wait", now());
        std::fputs("\n]\n", out);
        const bool bad = std::fflush(out) != 0 || std::ferror(out);
        if (bad) std::fprintf(warnings, "ringlet: trace: error %d\n", errno);
        std::fclose(std::exchange(out, nullptr));
    }

private:
    struct track {
        int number = 0;
        double since = now();
        std::source_location place{};  // of the co_await where it waits, or has last waited
        bool runs = false;
    };
    static tracer& self(void* t) { return *static_cast<tracer*>(t); }
    static double now() {
        return microseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    // "file.cpp:12", fit for a string in JSON.
    static std::string text(std::source_location place) {
        std::string s = place.file_name();
        s.erase(0, s.rfind('/') + 1);
        for (char& c : s) c = c == '"' || c == '\\' ? '_' : c;
        return s + ":" + std::to_string(place.line());
    }
    track& track_of(const job_info& j) {
        track& t = tracks[j.id];
        if (t.number) return t;
        t.number = ++count, t.place = j.spawned;
        const char* const form = ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_name\","
                                 "\"args\":{\"name\":\"%s\"}}";
        std::fprintf(out, form, t.number, text(j.spawned).c_str());
        return t;
    }
    // From a wait to a run, or from a run to a wait. Of the run in which a tracer is made inside a
    // task, where there were hooks before, only the end is seen.
    void turns(const job_info& j, bool runs) {
        track& t = track_of(j);
        const double time = now(), lasted = time - t.since;
        slice(t, runs ? "wait" : "run", time);
        if (t.runs && !runs && stall > 0 && lasted > stall)
            std::fprintf(warnings, "ringlet: a run of %.1f ms, from %s to %s, of the task at %s\n",
                lasted / 1e3, text(t.place).c_str(), text(j.where).c_str(),
                text(j.spawned).c_str());
        t.runs = runs, t.since = time, t.place = j.where;
    }
    // A begin and an end, which are the same number where two slices meet: of a slice with a length
    // viewers add it up, and by its rounding take one slice to lie in the other.
    void slice(const track& t, const char* what, double end) {
        for (const auto& [kind, time] : {std::pair('B', t.since), std::pair('E', end)})
            std::fprintf(out,
                ",\n{\"ph\":\"%c\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,\"name\":\"%s %s\"}", kind,
                t.number, time - begin, what, text(t.place).c_str());
    }

    executor& ex;
    executor_hooks before;
    double stall, begin = now();
    std::FILE *warnings, *out = nullptr;
    std::map<const void*, track> tracks;
    int count = 0;
};

}  // namespace ringlet
