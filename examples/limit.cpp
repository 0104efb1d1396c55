// limit: runs a command, and ends it when its time is over.
//
//   usage: limit [OPTION]... DURATION COMMAND [ARG]...        limit 1.5m make test;  limit -k 5 20 ./server
//
// Does what GNU timeout does. DURATION is a number, also with a fraction, of seconds, or of what the
// suffix says: s, m, h, d. 0 is no limit.
//
//   -s, --signal SIGNAL    what to send then, a name or a number; TERM without it
//   -k, --kill-after TIME  send KILL as well, if the command still runs so long after that
//   -p, --preserve-status  give the command's status, even if its time was over
//   -f, --foreground       stay in the terminal's foreground: the command can read from it and gets
//                          Ctrl-C, but what it has started itself is not ended
//   -v, --verbose          tell on stderr what is sent
//
// Exit status: the command's; 124 if its time was over; 125 if limit itself fails; 126 if the command
// is found and cannot be run; 127 if it is not found; 137 (killed) if KILL was sent. A command that
// dies by a signal makes limit die by the same. HUP, INT, QUIT and TERM sent to limit are passed on.
// Unlike timeout it leaves signals that are ignored (nohup) ignored in the command.
//
// What it shows: a program that is a race: a task that waits for the child, one that waits for
// signals, and one for the time, which a new one replaces by assignment; and what signals.hpp and
// process.hpp do together: what is blocked here is not blocked in the child.

#include <ringlet/recipes/process.hpp>
#include <ringlet/timer.hpp>

#include <getopt.h>
#include <strings.h>
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

using namespace ringlet;
using seconds = std::chrono::duration<double>;
enum : int { exit_late = 124, exit_failed = 125, exit_cannot_run = 126, exit_not_found = 127 };

struct settings {
    std::optional<seconds> limit = seconds(), kill_after = seconds();
    std::optional<int> signal = SIGTERM;
    bool preserve = false, foreground = false, verbose = false;
    std::vector<std::string> command;
};

std::optional<seconds> seconds_of(const char* text) {
    static const char units[] = "smhd";  // and none, for seconds
    constexpr int each[] = {1, 60, 3600, 86400, 1};
    char* end = nullptr;
    const double n = std::strtod(text, &end);
    const char* const unit = std::strchr(units, *end);
    if (end == text || !(n >= 0) || !unit || (*end && end[1])) return std::nullopt;
    return seconds(n * each[unit - units]);
}

// A name, with or without SIG; RTMIN+1, RTMAX-1; a number, or the status of what it kills (137).
std::optional<int> signal_of(const char* text) {
    if (strncasecmp(text, "SIG", 3) == 0) text += 3;
    if (strcasecmp(text, "EXIT") == 0) return 0;
    for (int s = 1; s < _NSIG; ++s)
        if (const char* n = sigabbrev_np(s); n && strcasecmp(text, n) == 0) return s;
    const bool min = strncasecmp(text, "RTMIN", 5) == 0, max = strncasecmp(text, "RTMAX", 5) == 0;
    char* end = nullptr;
    long n = std::strtol(min || max ? text + 5 : text, &end, 10);
    if (*end || !(min || max || (*text >= '0' && *text <= '9'))) return std::nullopt;
    if (min || max) n += min ? SIGRTMIN : SIGRTMAX;
    else n &= n < 255 ? 127 : 255;
    return n < (min || max ? SIGRTMIN : 0) || n >= _NSIG ? std::nullopt : std::optional(int(n));
}

// The command, and what is sent to it.
struct limited {
    const settings& with;
    std::optional<process> child;
    join_handle<> alarm;
    bool late = false, killing = false;

    explicit limited(const settings& s) : with(s) {
        std::signal(SIGCHLD, SIG_DFL);  // or its end could not be waited for
        std::vector<std::string> words = s.command;
        try {
            child.emplace(words, stdio::inherit, stdio::inherit, stdio::inherit, true);
        } catch (const std::system_error& e) {
            if (e.code().value() != ENOEXEC) throw;
            // A script without #! is the shell's, which looks for it in PATH as well.
            words.insert(words.begin(), {"/bin/sh", "-c", "exec \"$0\" \"$@\""});
            child.emplace(words, stdio::inherit, stdio::inherit, stdio::inherit, true);
        }
    }
    // To the command, and to its group, of which limit is one: it must not hear of it, and send it
    // again. What has been stopped is made to go on, or it would not notice. The alarm that calls
    // this may replace itself: it ends when it next waits.
    void send(int signal) {
        if (!killing && with.kill_after->count() > 0) {
            killing = true;
            alarm = spawn(expire(*with.kill_after, SIGKILL));
        }
        const char* const name = sigabbrev_np(signal);
        if (with.verbose)
            std::fprintf(stderr, "limit: sending signal %s to command '%s'\n",
                name ? name : std::to_string(signal).c_str(), with.command[0].c_str());
        ::kill(child->pid(), signal);
        if (with.foreground) return;
        std::signal(signal, SIG_IGN);
        ::kill(0, signal);
        if (signal == SIGKILL || signal == SIGCONT) return;
        ::kill(child->pid(), SIGCONT), ::kill(0, SIGCONT);
    }
    task<> expire(seconds after, int signal) {
        co_await sleep_for(after);
        late = true;
        send(signal);
    }
    task<> pass_on(signals& heard) {
        for (;;) {
            const signalfd_siginfo info = co_await heard.next();
            const int signal = static_cast<int>(info.ssi_signo);
            const bool own = info.ssi_pid == static_cast<std::uint32_t>(::getpid());
            if (own || signal == SIGTTIN || signal == SIGTTOU) continue;
            late = late || signal == SIGALRM;
            send(signal == SIGALRM ? (killing ? SIGKILL : *with.signal) : signal);
        }
    }
};

task<int> run(limited& l, signals& heard) {
    // In a group of its own the command may be stopped for using the terminal; limit may not.
    for (const int stops : {SIGTTIN, SIGTTOU}) std::signal(stops, SIG_IGN);
    if (l.with.limit->count() > 0) l.alarm = spawn(l.expire(*l.with.limit, *l.with.signal));
    const auto [status, never] = co_await when_any(l.child->wait(), l.pass_on(heard));
    co_return *status;
}

int outcome(const settings& s, bool late, int status) {
    if (WIFEXITED(status)) return late && !s.preserve ? exit_late : WEXITSTATUS(status);
    const int signal = WTERMSIG(status);
    if (WCOREDUMP(status)) std::fputs("limit: the command dumped core\n", stderr);
    if (!late) {  // dies as the command did, but leaves no core of its own
        ::prctl(PR_SET_DUMPABLE, 0);
        std::signal(signal, SIG_DFL);
        std::raise(signal);
    }
    return late && !s.preserve && signal != SIGKILL ? exit_late : 128 + signal;
}

int start(const settings& s) {
    const bool catchable = *s.signal != 0 && *s.signal != SIGKILL && *s.signal != SIGSTOP;
    if (!s.foreground) ::setpgid(0, 0);
    int status = 0;
    bool late = false;
    try {
        signals heard({SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU,
            catchable ? *s.signal : SIGTERM});
        limited l(s);
        status = block_on(run(l, heard));
        late = l.late;
    } catch (const std::system_error& e) {
        const int n = e.code().value();
        const bool starting = std::string_view(e.what()).substr(0, 6) == "spawn ";
        std::fprintf(stderr, "limit: %s\n", e.what() + (starting ? 6 : 0));
        if (!starting || n == EAGAIN || n == ENOMEM || n == EMFILE) return exit_failed;
        return n == ENOENT ? exit_not_found : exit_cannot_run;
    }
    return outcome(s, late, status);
}

int usage(std::FILE* out, int status) {
    std::fputs("usage: limit [-fpv] [-s SIGNAL] [-k DURATION] DURATION COMMAND [ARG]...\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    static const option options[] = {{"signal", 1, nullptr, 's'}, {"kill-after", 1, nullptr, 'k'},
        {"preserve-status", 0, nullptr, 'p'}, {"foreground", 0, nullptr, 'f'},
        {"verbose", 0, nullptr, 'v'}, {"help", 0, nullptr, 'h'}, {}};
    settings s;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "+fk:ps:v", options, nullptr)) != -1;) {
        if (o == 'h') return usage(stdout, 0);
        if (o == 's') s.signal = signal_of(optarg);
        if (o == 'k') s.kill_after = seconds_of(optarg);
        s.preserve = s.preserve || o == 'p';
        s.foreground = s.foreground || o == 'f';
        s.verbose = s.verbose || o == 'v';
        if (o == '?' || !s.signal || !s.kill_after) return usage(stderr, exit_failed);
    }
    if (argc - optind < 2 || !(s.limit = seconds_of(argv[optind])))
        return usage(stderr, exit_failed);
    s.command.assign(argv + optind + 1, argv + argc);
    return start(s);
}
