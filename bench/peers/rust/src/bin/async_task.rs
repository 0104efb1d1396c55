//! async_task: works with async-task alone, and a queue, first in, first out, by hand. Channels are
//! those of async-channel. There are no timers.

use async_task::{Runnable, Task};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use works::{all, below, measure, opaque, Work, YIELDERS};

thread_local! {
    static QUEUE: RefCell<VecDeque<Runnable>> = RefCell::new(VecDeque::new());
}

fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let schedule = |runnable| QUEUE.with(|queue| queue.borrow_mut().push_back(runnable));
    let (runnable, task) = async_task::spawn(future, schedule);
    runnable.schedule();
    task
}

fn block_on<T: Send + 'static>(root: impl Future<Output = T> + Send + 'static) -> T {
    let task = spawn(root);
    while let Some(runnable) = QUEUE.with(|queue| queue.borrow_mut().pop_front()) {
        runnable.run();
    }
    futures_lite::future::block_on(task)
}

async fn yielder(n: u64) -> u64 {
    for _ in 0..n {
        futures_lite::future::yield_now().await;
    }
    n
}
async fn yields(n: u64) -> u64 {
    let tasks: Vec<_> = (0..YIELDERS).map(|_| spawn(yielder(n / YIELDERS))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await;
    }
    sum
}

async fn child(i: u64) -> u64 {
    i
}
async fn spawns(n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        sum += spawn(child(i)).await;
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

async fn pings(n: u64) -> u64 {
    let (to_there, there) = async_channel::bounded::<u64>(1);
    let (to_here, here) = async_channel::bounded::<u64>(1);
    let other = spawn(async move {
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

fn main() {
    measure(&[
        Work { name: "yield", run: |n| block_on(yields(n)), first: YIELDERS, sum: all },
        Work { name: "spawn", run: |n| block_on(spawns(n)), first: 1000, sum: below },
        Work { name: "call", run: |n| block_on(calls(n)), first: 1000, sum: below },
        Work { name: "pingpong", run: |n| block_on(pings(n)), first: 1000, sum: below },
    ]);
}
