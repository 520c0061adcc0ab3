//! Benchmarks that need a server of their own.

use crate::{
    servers::Postgres,
    shell::{Shell, Stop},
};

/// Measures the store on PostgreSQL beside bare inserts and its peers, on a private server that syncs to the disk.
pub(crate) async fn postgres(shell: &mut Shell, options: &[String]) -> Result<(), Stop> {
    let postgres = match Postgres::start(shell).await? {
        Ok(postgres) => postgres,
        Err(why) => return Err(Stop::Failed(why)),
    };
    let url = postgres.url();
    let mut run =
        shell.cargo(&["run", "--release", "--quiet", "--manifest-path", "bench/postgres/Cargo.toml"]);
    run.args(["--", "--postgres", &url]).args(options);
    let done = shell.run(run).await;
    postgres.stop().await;
    done
}
