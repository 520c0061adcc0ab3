//! What compiles, and what is said of what does not: our own words only, for the compiler's change from version to version.
//! To take what is said now as what is right: `TRYBUILD=overwrite`.

#[test]
fn the_compiler_says_what_to_do() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
