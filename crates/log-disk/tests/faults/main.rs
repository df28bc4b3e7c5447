//! Killed processes, lost power, failing calls, damaged files and full disks.
//!
//! Runs the log in child processes of its own, so it has no harness: `cargo test --test faults [name…]` runs the
//! scenarios whose names contain one of the words. `FAULTS_SEED` repeats a run. `-- fixture DIR` writes files for
//! `tests/fixtures`.
#![allow(clippy::print_stdout, reason = "a test runner reports on the terminal")]

mod child;
mod dice;
mod fixture;
mod scenarios;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "child") {
        return child::main(&arguments[1..]);
    }
    if let [first, dir] = &arguments[..]
        && first == "fixture"
    {
        fixture::write(dir.as_ref());
        return ExitCode::SUCCESS;
    }
    if let [first, dir] = &arguments[..]
        && first == "child-on-small-disk"
    {
        scenarios::on_small_disk(dir.as_ref());
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let seed = dice::seed();
    println!("FAULTS_SEED={seed}");
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in scenarios::ALL {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match std::panic::catch_unwind(|| scenario(&mut dice::Dice::new(seed))) {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
