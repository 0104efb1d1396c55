//! smol: works with the crates that smol consists of: async-executor's LocalExecutor, async-io,
//! async-channel and futures-lite.

use async_executor::LocalExecutor;
use async_io::Timer;
use futures_lite::future;
use std::time::Duration;
use works::{all, below, durations, measure, opaque, Work, YIELDERS};

type Executor<'a> = LocalExecutor<'a>;

async fn yielder(n: u64) -> u64 {
    for _ in 0..n {
        future::yield_now().await;
    }
    n
}
async fn yields(executor: &Executor<'_>, n: u64) -> u64 {
    let tasks: Vec<_> = (0..YIELDERS).map(|_| executor.spawn(yielder(n / YIELDERS))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await;
    }
    sum
}

async fn child(i: u64) -> u64 {
    i
}
async fn spawns(executor: &Executor<'_>, n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        sum += executor.spawn(child(i)).await;
    }
    sum
}

#[inline(never)]
async fn callee(i: u64) -> u64 {
    opaque(i)
}
async fn calls(n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        sum += callee(i).await;
    }
    sum
}

async fn pings(executor: &Executor<'_>, n: u64) -> u64 {
    let (to_there, there) = async_channel::bounded::<u64>(1);
    let (to_here, here) = async_channel::bounded::<u64>(1);
    let other = executor.spawn(async move {
        while let Ok(i) = there.recv().await {
            if to_here.send(i).await.is_err() {
                break;
            }
        }
    });
    let mut sum = 0;
    for i in 0..n {
        to_there.send(i).await.unwrap();
        sum += here.recv().await.unwrap();
    }
    drop(to_there);
    other.await;
    sum
}

async fn yielding_child(i: u64) -> u64 {
    future::yield_now().await;
    i
}
async fn timeouts(n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        let late = async {
            Timer::after(Duration::from_secs(10)).await;
            None
        };
        sum += future::or(async { Some(yielding_child(i).await) }, late).await.unwrap();
    }
    sum
}

async fn sleeper(time: Duration) -> u64 {
    Timer::after(time).await;
    1
}
async fn sleeps(executor: &Executor<'_>, n: u64) -> u64 {
    let tasks: Vec<_> = durations(n).map(|time| executor.spawn(sleeper(time))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await;
    }
    sum
}

// Works with several tasks and no timers run under futures-lite's block_on, as in the documentation
// of async-executor. Under that of async-io, which looks at epoll now and then, a part of the
// processes take ten times as long for a spawn, by chance (1,900 ns and not 160, most of it in the
// kernel), and with them the median of the rounds. The call of one task stays under async-io's,
// where rustc makes 2 ns of it and not 9.
macro_rules! on_executor {
    ($block_on:path, $work:ident) => {
        |n| {
            let executor = Executor::new();
            $block_on(executor.run($work(&executor, n)))
        }
    };
}
fn alone<F: std::future::Future<Output = u64>>(future: F) -> u64 {
    async_io::block_on(Executor::new().run(future))
}

fn main() {
    measure(&[
        Work { name: "yield", run: on_executor!(future::block_on, yields), first: YIELDERS, sum: all },
        Work { name: "spawn", run: on_executor!(future::block_on, spawns), first: 1000, sum: below },
        Work { name: "call", run: |n| alone(calls(n)), first: 1000, sum: below },
        Work { name: "pingpong", run: on_executor!(future::block_on, pings), first: 1000, sum: below },
        Work { name: "timeout", run: |n| alone(timeouts(n)), first: 1000, sum: below },
        Work { name: "sleep", run: on_executor!(async_io::block_on, sleeps), first: 0, sum: all },
    ]);
}
