// A second file that includes the same headers: nothing in them may be defined twice.
#include <ringlet/timer.hpp>

int other();
int other() {
    return ringlet::block_on([]() -> ringlet::task<int> { co_return 1; }());
}
