//! What the peers in Rust share: the command line, the measuring, and the pseudo-random sleeps, as
//! in works.cpp.
//!
//!     usage: NAME WORK COUNT

use std::time::Duration;

pub struct Work {
    pub name: &'static str,
    /// Does so many units, and gives the sum of what they computed.
    pub run: fn(u64) -> u64,
    /// The units of the round that is not counted; 0: as many.
    pub first: u64,
    /// The sum that is expected.
    pub sum: fn(u64) -> u64,
}

pub const YIELDERS: u64 = 10_000;

/// 0 + 1 + ... + (n - 1)
pub fn below(n: u64) -> u64 {
    n * (n - 1) / 2
}
pub fn all(n: u64) -> u64 {
    n
}

/// The same number, which the compiler does not know to be the same: it would replace a loop of
/// calls by a formula.
pub fn opaque(i: u64) -> u64 {
    unsafe { std::ptr::read_volatile(&i) }
}

/// Durations of 1 to 50 ms: xorshift64, as in works.cpp.
pub fn durations(n: u64) -> impl Iterator<Item = Duration> {
    let mut state: u64 = 0x9e3779b97f4a7c15;
    (0..n).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_micros(1000 + state % 49_000)
    })
}

fn now(clock: libc::clockid_t) -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

fn finish(work: &Work, n: u64) {
    let sum = (work.run)(n);
    if sum != (work.sum)(n) {
        eprintln!("{}: {}, where {} was wanted", work.name, sum, (work.sum)(n));
        std::process::exit(1);
    }
}

pub fn measure(works: &[Work]) {
    let arguments: Vec<String> = std::env::args().collect();
    let count = arguments.get(2).and_then(|s| s.parse().ok()).unwrap_or(0) / YIELDERS * YIELDERS;
    let work = works.iter().find(|w| Some(w.name) == arguments.get(1).map(|s| s.as_str()));
    let (work, units) = match work {
        Some(work) if count > 0 => (work, count),
        _ => {
            let names: Vec<&str> = works.iter().map(|w| w.name).collect();
            eprintln!("usage: NAME {} COUNT     (10,000 at least)", names.join("|"));
            std::process::exit(2);
        }
    };
    finish(work, if work.first > 0 { work.first } else { units });
    let wall = now(libc::CLOCK_MONOTONIC);
    let cpu = now(libc::CLOCK_PROCESS_CPUTIME_ID);
    finish(work, units);
    println!(
        "work={} units={} wall_ns={:.2} cpu_ns={:.2}",
        work.name,
        units,
        (now(libc::CLOCK_MONOTONIC) - wall) / units as f64,
        (now(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu) / units as f64
    );
}
