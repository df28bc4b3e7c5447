//! The `tidings` command.

mod acknowledge;
mod args;
mod bench;
mod check;
mod config;
mod date;
mod descriptors;
mod grants;
mod history;
mod key;
mod logging;
mod outcome;
mod output;
mod publish;
mod serve;
mod show;
mod subscribe;
mod token;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    outcome::report(run(Cli::parse().command))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Publish(args) => on_one_thread(publish::run(args)),
        Command::Subscribe(args) => on_one_thread(subscribe::run(args)),
        Command::History(args) => on_one_thread(history::run(args)),
        Command::Token(args) => token::run(&args),
        Command::Key { command } => key::run(&command),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::BenchClients => {
            descriptors::raise(None);
            Ok(tidings_bench::agent::run()?)
        }
        Command::BenchServer(args) => Ok(tidings_bench::supervise(&args.folder, &args.command)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidings", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

fn on_one_thread(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
