//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in ["native.proto", "journal.proto"] {
        println!("cargo::rerun-if-changed={file}");
    }
    prost_build::Config::new().compile_fds(protox::compile(["native.proto"], ["."])?)?;
    prost_build::Config::new()
        .extern_path(".dure.v1", "crate::wire")
        .compile_fds(protox::compile(["journal.proto"], ["."])?)?;
    Ok(())
}
