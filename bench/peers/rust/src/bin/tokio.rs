//! tokio: works with tokio's current_thread runtime, its channels and its timers.

use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task;
use works::{all, below, durations, measure, opaque, Work, YIELDERS};

fn block_on<T>(root: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(root)
}
// A root that waits often is a task as well: block_on's own future is polled in a slower way.
fn spawned(root: impl Future<Output = u64> + Send + 'static) -> u64 {
    block_on(async { task::spawn(root).await.unwrap() })
}

async fn yielder(n: u64) -> u64 {
    for _ in 0..n {
        task::yield_now().await;
    }
    n
}
async fn yields(n: u64) -> u64 {
    let tasks: Vec<_> = (0..YIELDERS).map(|_| task::spawn(yielder(n / YIELDERS))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    sum
}

async fn child(i: u64) -> u64 {
    i
}
async fn spawns(n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        sum += task::spawn(child(i)).await.unwrap();
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
    let (to_there, mut there) = mpsc::channel::<u64>(1);
    let (to_here, mut here) = mpsc::channel::<u64>(1);
    let other = task::spawn(async move {
        while let Some(i) = there.recv().await {
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
    other.await.unwrap();
    sum
}

async fn yielding_child(i: u64) -> u64 {
    task::yield_now().await;
    i
}
async fn timeouts(n: u64) -> u64 {
    let mut sum = 0;
    for i in 0..n {
        sum += tokio::time::timeout(Duration::from_secs(10), yielding_child(i)).await.unwrap();
    }
    sum
}

async fn sleeper(time: Duration) -> u64 {
    tokio::time::sleep(time).await;
    1
}
async fn sleeps(n: u64) -> u64 {
    let tasks: Vec<_> = durations(n).map(|time| task::spawn(sleeper(time))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    sum
}

fn main() {
    measure(&[
        Work { name: "yield", run: |n| block_on(yields(n)), first: YIELDERS, sum: all },
        Work { name: "spawn", run: |n| spawned(spawns(n)), first: 1000, sum: below },
        Work { name: "call", run: |n| block_on(calls(n)), first: 1000, sum: below },
        Work { name: "pingpong", run: |n| spawned(pings(n)), first: 1000, sum: below },
        Work { name: "timeout", run: |n| spawned(timeouts(n)), first: 1000, sum: below },
        Work { name: "sleep", run: |n| block_on(sleeps(n)), first: 0, sum: all },
    ]);
}
