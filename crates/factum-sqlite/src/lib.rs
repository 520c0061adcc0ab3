//! Read models in SQLite, kept exactly once: their rows and their checkpoint change in one transaction.
//!
//! A read model `balances` is a view of that name over the table of its active generation, so any tool that reads SQLite reads it:
//! `SELECT key, json_extract(row, '$.balance') FROM balances`.

mod documents;
mod file;
mod sql;

pub use self::{
    file::Sqlite,
    sql::{ProjectedSql, Sql, SqlProjection},
};
