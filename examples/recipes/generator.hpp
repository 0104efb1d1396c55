// recipes/generator.hpp: a task that gives more than one value.
//
//     #include <ringlet/recipes/generator.hpp>
//     #include <ringlet/timer.hpp>
//     ringlet::generator<int> beats(int n) {
//         for (int i = 0; i < n; ++i) {
//             co_await ringlet::sleep_for(std::chrono::seconds(1));
//             co_yield i;
//         }
//     }
//     ringlet::task<> count() {
//         auto g = beats(3);
//         for (auto v = co_await g.next(); v; v = co_await g.next()) std::printf("%d\n", *v);
//     }
//
// The body awaits what a task awaits, and runs as a part of the task that awaits next(), as a called
// task does: no job of its own, nothing running ahead. That a task can be left at a co_yield and
// resumed there needs one thing more than a call: where the body has waited, co_yield goes on with the
// caller, as the job's run() does where a task has ended, and the frame stays.
//
//     (1) next                            (2) co_yield
//     suspended ---> a part of the caller's task ---> suspended, the caller goes on with the value
//         |                     |    |
//         |  (4) destroyed      |    | (3) the end, or an exception
//         +----------> gone <---+----+
//
//     (1) A body that does not wait does not suspend the caller.    (3) next() gives nullopt, or
//     rethrows; after that nullopt, always.    (4) With the generator, or by a cancel of the task
//     that awaits next(): a cancel destroys what it meets, and the body is in the midst of an await.
//     So also a timeout around next() ends the generator, unless the value is there in time.
#pragma once

#include <ringlet/task.hpp>

namespace ringlet {

// Lazy: nothing runs before the first next(). Move-only. While a next() waits it must stay where it is:
// not moved, and not destroyed by another task.
template <class T> class [[nodiscard]] generator {
public:
    struct promise_type : task<>::promise_type {
        std::optional<T> value;
        std::exception_ptr error;
        bool waits = false;
        generator get_return_object() { return generator(this); }
        auto frame() { return std::coroutine_handle<promise_type>::from_promise(*this); }
        auto yield_value(T v) {
            value.emplace(std::move(v));
            return gives();
        }
        void unhandled_exception() noexcept { error = std::current_exception(); }
    };

    // The next value; nullopt: there is none any more. Rethrows what has ended the body. Throws
    // std::logic_error if another next() of this generator waits.
    auto next() { return advance(*this); }

private:
    struct gives : std::suspend_always {
        std::coroutine_handle<> await_suspend(
            std::coroutine_handle<promise_type> h) const noexcept {
            void* const caller = h.promise().caller;
            if (!caller) return std::noop_coroutine();  // it is next() that has resumed the body
            return detail::job::current->point = std::coroutine_handle<>::from_address(caller);
        }
    };
    struct destroys {
        void operator()(promise_type* p) const { p->frame().destroy(); }
    };
    struct advance {
        generator& of;
        bool waits = false;
        explicit advance(generator& g) : of(g) {}
        advance(advance&&) = default;
        ~advance() {
            if (waits) of.body.reset();
        }
        bool await_ready() const {
            if (of.body && of.body->waits)
                throw std::logic_error("ringlet: two tasks await next() of one generator at once");
            return !of.body;
        }
        bool await_suspend(auto h) {
            detail::awaiting_job(h);
            of.body->caller = nullptr;
            of.body->frame().resume();
            waits = of.body->waits = !of.body->value && !of.body->frame().done();
            if (waits) of.body->caller = h.address();
            return waits;
        }
        std::optional<T> await_resume() {
            waits = false;
            if (!of.body) return std::nullopt;
            of.body->waits = false;
            std::optional<T> v = std::exchange(of.body->value, std::nullopt);
            if (v) return v;
            const std::exception_ptr error = of.body->error;
            of.body.reset();
            if (error) std::rethrow_exception(error);
            return v;
        }
    };
    explicit generator(promise_type* p) : body(p) {}
    std::unique_ptr<promise_type, destroys> body;
};

}  // namespace ringlet
