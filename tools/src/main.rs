//! `ringctl`: the command line of Ringlog.
//!
//! Data on stdout, messages on stderr, exit code 0 only if everything was done.

mod cli;
mod lines;
mod place;
mod template;

use clap::Parser;

fn main() {
    let cli = cli::Cli::parse();
    println!("{cli:?}");
}
