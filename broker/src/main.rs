//! `dure`: the broker and every verb of the command line.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
