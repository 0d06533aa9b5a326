//! `completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Outcome;
use super::out::Out;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure completions bash > ~/.local/share/bash-completion/completions/dure")]
pub(super) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_parser = clap::value_parser!(Shell))]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Outcome {
    let mut out = Out::default();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "dure", out.buffer());
    out.flush()
}
