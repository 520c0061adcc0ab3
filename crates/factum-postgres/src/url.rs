//! URLs of databases, as far as programs that take one from their users must look at it themselves.

/// Whether this is the URL of a PostgreSQL database, by its beginning: `postgres://` or `postgresql://`. For programs that take
/// a directory as well.
#[must_use]
pub fn is_url(text: &str) -> bool {
    let (scheme, _) = text.split_once("://").unwrap_or_default();
    ["postgres", "postgresql"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// The same text with `***` where the URLs in it have a password, so that it can be shown to people and written to logs.
///
/// ```
/// # use factum_postgres::without_password;
/// assert_eq!(without_password("postgres://app:secret@db/app"), "postgres://app:***@db/app");
/// assert_eq!(without_password("postgres://app@db/app"), "postgres://app@db/app");
/// ```
#[must_use]
pub fn without_password(text: &str) -> String {
    // A password that was not encoded may hold anything but a space: rather too much is hidden than too little.
    text.split_inclusive(char::is_whitespace).map(|word| hidden_in_query(hidden_in_url(word))).collect()
}

fn hidden_in_url(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    match rest.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
        Some((Some((user, _)), host)) => format!("{scheme}://{user}:***@{host}"),
        _ => word.to_owned(),
    }
}

fn hidden_in_query(word: String) -> String {
    let Some((before, rest)) = word.split_once("password=") else { return word };
    let end = rest.find(|c: char| c == '&' || c.is_whitespace()).unwrap_or(rest.len());
    format!("{before}password=***{}", hidden_in_query(rest[end..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_known_by_its_scheme() {
        for url in ["postgres://", "postgresql://a@b/c", "POSTGRES://a"] {
            assert!(is_url(url), "{url}");
        }
        for other in
            ["", "postgres", "postgres:/a", "mysql://a", "/var/postgres://", "./data", "host=a user=b"]
        {
            assert!(!is_url(other), "{other}");
        }
    }

    #[test]
    fn no_password_is_left_wherever_it_stands() {
        for url in [
            "postgres://u:hunter2@h/d",
            "postgresql://u:hunter2@h:5432/d?sslmode=require",
            "mysql://:hunter2@h",
            "postgres://u:hunt@er2/hunter2@h/d",
            "error: unexpected argument 'postgres://u:hunter2@h/d' found\nand postgres://u:hunter2@h\n",
            "postgres://u@h/d?password=hunter2&sslmode=disable",
            "host=h password=hunter2 user=u",
        ] {
            let shown = without_password(url);
            assert!(shown.contains("***") && !shown.contains("hunt") && !shown.contains("er2"), "{shown}");
        }
        for plain in ["", "postgres://u@h/d", "postgres://h:5432/d", "a: b@c", "error: no\n\n  such thing\n"]
        {
            assert_eq!(without_password(plain), plain);
        }
    }
}
