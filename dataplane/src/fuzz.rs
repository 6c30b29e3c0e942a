//! Fuzzing, as a part of the tests: what strangers send and what the edge says, changed at random for a bounded time, starting
//! from inputs that are kept in `dataplane/fuzz/TARGET/`, and for what the edge says from `dataplane/fuzz/decoding.yaml`. Each target says what holds for any input. An input that breaks it is
//! written beside the others and stays there as a test.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::balance::Draw;
use crate::worker::Random;

mod http1;
mod resources;
mod seeds;
mod tokens;
mod wire;

/// How long each target is fuzzed, in seconds, unless it is said here.
const SECONDS_ENV: &str = "TOMBOLO_FUZZ_SECONDS";
const SECONDS: u64 = 2;
/// What an input may grow to; the limits of heads and chunks are tested elsewhere.
const BYTES_MAX: usize = 4096;
/// Inputs that are kept because something new came of them.
const POOL_MAX: usize = 4096;

struct Target {
    name: &'static str,
    /// Panics if the input breaks what must hold; otherwise what came of it. An input with which something new came is built upon.
    check: fn(&[u8]) -> String,
    /// One of these inputs, changed.
    mutate: fn(&Random, &[Vec<u8>]) -> Vec<u8>,
}

#[test]
fn requests() {
    fuzz(&http1::REQUESTS);
}

#[test]
fn responses() {
    fuzz(&http1::RESPONSES);
}

#[test]
fn chunks() {
    fuzz(&http1::CHUNKS);
}

#[test]
fn route_tables() {
    fuzz(&resources::ROUTES);
}

#[test]
fn decoding() {
    fuzz_from(&resources::DECODING, seeds::inputs());
}

#[test]
fn tokens() {
    fuzz(&tokens::TOKENS);
}

fn fuzz(target: &Target) {
    fuzz_from(target, Vec::new());
}

/// Begins with these inputs too.
fn fuzz_from(target: &Target, seeds: Vec<Vec<u8>>) {
    let seconds = env::var(SECONDS_ENV).map_or(SECONDS, |text| text.parse().expect(SECONDS_ENV));
    let end = Instant::now() + Duration::from_secs(seconds);
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(target.name);
    let mut pool = kept(&corpus);
    assert!(
        !pool.is_empty(),
        "{} holds nothing to begin with",
        corpus.display()
    );
    pool.extend(seeds);
    let mut seen: HashSet<String> = pool.iter().map(|input| (target.check)(input)).collect();
    // The same inputs each time as far as the time goes: a test that fails for one change fails for it again.
    let random = Random::seeded(1);
    let mut inputs = 0u64;
    while Instant::now() < end {
        let input = (target.mutate)(&random, &pool);
        inputs += 1;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
        match outcome {
            Ok(outcome) => {
                if seen.insert(outcome) && pool.len() < POOL_MAX {
                    pool.push(input);
                }
            }
            Err(broken) => {
                let mut hasher = DefaultHasher::new();
                input.hash(&mut hasher);
                let file = corpus.join(format!("found-{:016x}", hasher.finish()));
                fs::write(&file, &input).unwrap();
                eprintln!("kept as {}", file.display());
                panic::resume_unwind(broken);
            }
        }
    }
    println!("{}: {inputs} inputs, {} outcomes", target.name, seen.len());
}

fn kept(corpus: &PathBuf) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One of the inputs with a few pieces of it changed; `words` are what the format is made of.
fn mutate_text(random: &Random, pool: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = one_of(random, pool).clone();
    for _ in 0..=random.below(4) {
        let at = place(random, input.len());
        let until = (at + place(random, 16)).min(input.len());
        match random.below(7) {
            0 => drop(input.drain(at..until)),
            1 => drop(input.splice(at..at, input[at..until].to_vec())),
            2 => drop(input.splice(at..at, one_of::<&[u8]>(random, words).to_vec())),
            3 => drop(input.splice(at..until, one_of::<&[u8]>(random, words).to_vec())),
            4 => drop(input.splice(at..at, [byte(random)])),
            5 => input.truncate(at),
            _ => {
                if let Some(changed) = input.get_mut(at) {
                    *changed ^= 1 << random.below(8);
                }
            }
        }
    }
    input.truncate(BYTES_MAX);
    input
}

fn one_of<'a, T>(random: &Random, all: &'a [T]) -> &'a T {
    let last = all.len() - 1;
    &all[place(random, last)]
}

/// `0..=last`.
fn place(random: &Random, last: usize) -> usize {
    random.below(u32::try_from(last).unwrap() + 1) as usize
}

fn byte(random: &Random) -> u8 {
    u8::try_from(random.below(256)).unwrap()
}
