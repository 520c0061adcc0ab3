//! URLs as they are shown to people: without what is nobody's business.

/// The URL without user and password, for errors and logs.
pub(crate) fn shown(url: &str) -> String {
    // What was not encoded may hold anything: rather too much is hidden than too little.
    let shown = match url.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    };
    shown.split_once('?').map_or(shown.as_str(), |(before, _)| before).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, expected) in [
            ("redis://user:pass@host:6379/1", "redis://host:6379/1"),
            ("redis://:p@ss@host", "redis://host"),
            ("amqp://host:5672/%2f", "amqp://host:5672/%2f"),
            ("amqp://h/v?password=x", "amqp://h/v"),
            ("user:pass@host", "host"),
            ("host:9092", "host:9092"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
