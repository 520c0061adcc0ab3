//! What compiles, and what the compiler says of what does not. To take its words as the new ones: `TRYBUILD=overwrite`.

#[test]
fn the_compiler_says_what_to_do() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
