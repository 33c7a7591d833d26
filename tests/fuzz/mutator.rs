//! Mutations of an input: what a fuzzer without coverage can do. Everything comes from the caller's seed.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Longest input.
const LENGTH_MAX: usize = 64 << 10;

/// Numbers that stand at the edges of what fields hold, big-endian; compact lengths and their like last.
const EXTREMES: [&[u8]; 20] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0x7f, 0xff],
    &[0x80, 0],
    &[0xff, 0xff],
    &[0, 0, 0, 0],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x3f, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0, 0, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0x03],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
];

/// One to four changes of `input`; some splice in a part of one of the `others`.
pub fn mutate(input: &[u8], others: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        change(&mut bytes, others, rng);
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let end = rng.random_range(at..=bytes.len().min(at + 64));
    match rng.random_range(0..9) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        3 => {
            let other = others.choose(rng).map_or(&[][..], Vec::as_slice);
            let from = rng.random_range(0..=other.len());
            bytes.splice(at..end, other[from..].iter().copied());
        }
        4 => {
            let number = *EXTREMES.choose(rng).expect("there are some");
            bytes.splice(at..at, number.iter().copied());
        }
        5 | 6 => {
            let number = *EXTREMES.choose(rng).expect("there are some");
            for (place, byte) in bytes[at..].iter_mut().zip(number) {
                *place = *byte;
            }
        }
        7 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = rng.random()),
        _ => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
    }
}
