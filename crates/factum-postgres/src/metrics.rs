//! What is published of a store, through the facade `metrics`: whichever recorder the program has installed gets it.

use deadpool_postgres::Pool;
use metrics::gauge;

use crate::LogStatus;

/// Publishes how a store is. Each has the labels `schema` and `database`.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a double; positions beyond 2^53 are shown rounded")]
pub(crate) fn publish(log: &LogStatus, pool: &Pool, place: &str, schema: &str) {
    let labels = [("schema", schema.to_owned()), ("database", place.to_owned())];
    let of_pool = pool.status();
    let holder = log.holders.first();
    gauge!("factum_postgres_safe_head", &labels).set(log.safe_head.position.0 as f64);
    gauge!("factum_postgres_drawn", &labels).set(log.drawn.0 as f64);
    gauge!("factum_postgres_writing", &labels).set(log.holders.len() as f64);
    // 0 is nobody.
    let pid = holder.and_then(|holder| holder.pid).unwrap_or_default();
    gauge!("factum_postgres_holder_pid", &labels).set(f64::from(pid));
    let age = holder.and_then(|holder| holder.age).unwrap_or_default();
    gauge!("factum_postgres_holder_age_seconds", &labels).set(age.as_secs_f64());
    let in_use = of_pool.size.saturating_sub(of_pool.available);
    gauge!("factum_postgres_connections_in_use", &labels).set(in_use as f64);
    gauge!("factum_postgres_connections_waited_for", &labels).set(of_pool.waiting as f64);
}
