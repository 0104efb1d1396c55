#!/usr/bin/env python3
"""Every interleaving of the one protocol with several threads: remote_waker in recipes/unblock.hpp.

Two threads each wake once and drop their copy; the last copy dropped says so; the loop reads the eventfd, takes
the news, and wakes; the executor may end at any moment. In each reachable state one atomic step of one of them is
taken. At every end: no wake is lost while the loop lives, the loop has heard that nobody is left, and nobody is
stuck. Then the same with the loop's or the waker's steps in a wrong order, which must be found out.
"""
import sys

WOKEN, LEFT = 1, 2


def steps(state, order):
    """-> the states after one step of one thread. State: event, news, copies, owed, ended, threads, loop."""
    event, news, copies, owed, ended, threads, loop = state

    def after(index, thread, **changes):
        others = list(threads)
        others[index] = thread
        values = {"event": event, "news": news, "copies": copies, "owed": owed, **changes}
        return (values["event"], values["news"], values["copies"], values["owed"], ended, tuple(others), loop)

    for index, thread in enumerate(threads):
        if thread in ("wake", "leave"):  # tell(what): news.fetch_or(what), and if there was none, the write
            what = WOKEN if thread == "wake" else LEFT
            follow = "wrote" if thread == "wake" else "gone"
            waker_owes = owed | (1 << index) if thread == "wake" else owed
            if order == "write first":  # wrong: the loop may look before the news is there
                yield after(index, "late " + thread, event=event + (news == 0))
            else:
                yield after(index, ("write " if news == 0 else "skip ") + follow, news=news | what, owed=waker_owes)
        elif thread.startswith("late "):
            what = WOKEN if thread == "late wake" else LEFT
            waker_owes = owed | (1 << index) if what == WOKEN else owed
            yield after(index, "wrote" if what == WOKEN else "gone", news=news | what, owed=waker_owes)
        elif thread.startswith("write "):
            yield after(index, thread[6:], event=event + 1)
        elif thread.startswith("skip "):
            yield after(index, thread[5:])
        elif thread == "wrote":  # drops its copy
            yield after(index, "leave" if copies == 1 else "gone", copies=copies - 1)

    def loop_step(new_event, new_news, new_owed, new_loop):
        return (new_event, new_news, copies, new_owed, ended, threads, new_loop)

    if loop == "read" and event:  # takes the whole count; blocked as long as it is zero
        yield loop_step(0, news, owed, "take")
    elif loop == "take":
        if order == "forget":  # wrong: what comes between the two is lost
            yield loop_step(event, news, owed, ("clear", news))
        else:
            yield loop_step(event, 0, owed, ("act", news, owed))
    elif loop[0] == "clear":
        yield loop_step(event, 0, owed, ("act", loop[1], owed if loop[1] & WOKEN else 0))
    elif loop[0] == "act":
        left = loop[1] & LEFT
        yield loop_step(event, news, owed & ~loop[2] if loop[1] & WOKEN else owed, "over" if left else "read")
    if not ended and loop != "over":  # the executor ends: the listening task is destroyed where it waits
        if loop == "read":
            yield (event, news, copies, owed, True, threads, "over")


def explore(order):
    """-> (states, what is wrong at an end)"""
    start = (0, 0, 2, 0, False, ("wake", "wake"), "read")
    seen, todo, wrong = {start}, [start], set()
    while todo:
        state = todo.pop()
        following = list(steps(state, order))
        event, news, copies, owed, ended, threads, loop = state
        quiet = [s for s in following if s[4] == ended]  # without the choice to end the executor
        if not quiet:
            if any(t != "gone" for t in threads):
                wrong.add("a thread is stuck")
            if not ended and owed:
                wrong.add("a wake is lost")
            if not ended and loop != "over":
                wrong.add("the loop has not heard that nobody is left")
        for s in following:
            if s not in seen:
                seen.add(s)
                todo.append(s)
    return len(seen), wrong


def main():
    passed = failed = 0
    for order, sound in (("as it is", True), ("write first", False), ("forget", False)):
        states, wrong = explore(order)
        good = sound == (not wrong)
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok' if good else 'FAILED':7} {order}: {states} states, {', '.join(sorted(wrong)) or 'nothing wrong'}")
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
