//! The names that are stored: serde's for variants and fields, the category of the enum.

use quote::ToTokens;
use syn::{Attribute, Error, Ident, LitStr, Meta, Result, Token, ext::IdentExt, punctuated::Punctuated};

/// What serde is told of the names of an enum, a variant or a field.
#[derive(Default)]
pub(crate) struct Serde {
    rename: Option<String>,
    /// For the variants of an enum, or the fields of a variant.
    pub(crate) rename_all: Option<Rule>,
    /// For the fields of all variants of an enum.
    pub(crate) rename_all_fields: Option<Rule>,
}

impl Serde {
    /// Reads `#[serde(…)]`. What is wrong in the eyes of serde, serde says itself.
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut known = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            let Ok(words) = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) else {
                continue;
            };
            for word in &words {
                known.read(word)?;
            }
        }
        Ok(known)
    }

    fn read(&mut self, word: &Meta) -> Result<()> {
        let path = word.path();
        if let Some(form) = ["tag", "content", "untagged"].into_iter().find(|form| path.is_ident(form)) {
            return Err(Error::new_spanned(
                path,
                format!(
                    "the variant's name is the event's type and stands beside its data, not within it: \
                     remove serde's `{form}`"
                ),
            ));
        }
        if let Some(form) =
            ["from", "try_from", "into", "remote"].into_iter().find(|form| path.is_ident(form))
        {
            return Err(Error::new_spanned(
                path,
                format!(
                    "what is stored is this enum itself, so that its variants' names are the events' types: remove serde's `{form}`, and \
                     bring older shapes to this one with `#[event(evolution = path)]`"
                ),
            ));
        }
        if path.is_ident("other") {
            return Err(Error::new_spanned(
                path,
                "it would read every unknown event as this one, without its content: remove serde's `other`; an unknown type is an error, \
                 unless the evolution says `ignore_unknown()`",
            ));
        }
        if path.is_ident("rename") {
            self.rename = name(word)?;
        } else if path.is_ident("rename_all") {
            self.rename_all = name(word)?.and_then(|rule| Rule::of(&rule));
        } else if path.is_ident("rename_all_fields") {
            self.rename_all_fields = name(word)?.and_then(|rule| Rule::of(&rule));
        }
        Ok(())
    }

    /// What a variant is stored as.
    pub(crate) fn variant(self, ident: &Ident, rule: Option<Rule>) -> String {
        let own = ident.unraw().to_string();
        self.rename.unwrap_or_else(|| rule.map_or(own.clone(), |rule| rule.variant(&own)))
    }

    /// What a field is stored as.
    pub(crate) fn field(self, ident: &Ident, rule: Option<Rule>) -> String {
        let own = ident.unraw().to_string();
        self.rename.unwrap_or_else(|| rule.map_or(own.clone(), |rule| rule.field(&own)))
    }
}

/// The one name in `rename = "…"` or `rename(serialize = "…", deserialize = "…")`.
fn name(word: &Meta) -> Result<Option<String>> {
    let list = match word {
        Meta::Path(_) => return Ok(None),
        Meta::NameValue(pair) => {
            let text: Option<LitStr> = syn::parse2(pair.value.to_token_stream()).ok();
            return Ok(text.map(|text| text.value()));
        }
        Meta::List(list) => list,
    };
    let (mut serialize, mut deserialize) = (None, None);
    let read = list.parse_nested_meta(|meta| {
        let text = meta.value()?.parse::<LitStr>()?.value();
        if meta.path.is_ident("serialize") {
            serialize = Some(text);
        } else {
            deserialize = Some(text);
        }
        Ok(())
    });
    if read.is_ok() && serialize != deserialize {
        return Err(Error::new_spanned(
            list,
            "an event is written and read under one name: say `serialize` and `deserialize` alike, or use one word for both",
        ));
    }
    Ok(serialize)
}

/// One of serde's rules for names.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Rule {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return None,
        })
    }

    /// `MoneyDeposited` by this rule.
    fn variant(self, name: &str) -> String {
        let snake = || {
            let mut snake = String::new();
            for (at, letter) in name.char_indices() {
                if at > 0 && letter.is_uppercase() {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_lowercase());
            }
            snake
        };
        match self {
            Self::Pascal => name.to_owned(),
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Camel => uncapitalized(name),
            Self::Snake => snake(),
            Self::ScreamingSnake => snake().to_ascii_uppercase(),
            Self::Kebab => snake().replace('_', "-"),
            Self::ScreamingKebab => snake().to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// `account_id` by this rule.
    fn field(self, name: &str) -> String {
        let pascal = || -> String {
            let mut capital = true;
            let letters = name.chars().filter_map(|letter| {
                let before = std::mem::replace(&mut capital, letter == '_');
                (letter != '_').then(|| if before { letter.to_ascii_uppercase() } else { letter })
            });
            letters.collect()
        };
        match self {
            Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Pascal => pascal(),
            Self::Camel => uncapitalized(&pascal()),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn uncapitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// The category of an enum that names none: its name without `Event` at the end, in snake case.
pub(crate) fn category(ident: &Ident) -> String {
    let name = ident.unraw().to_string();
    let name = name.strip_suffix("Events").or(name.strip_suffix("Event")).unwrap_or(&name);
    let letters: Vec<char> = name.chars().collect();
    let mut category = String::new();
    for (at, letter) in letters.iter().enumerate() {
        // A word begins at a capital after a small letter, and at the last of several capitals: `HTTPCall` is `http_call`.
        let begins = at > 0
            && letter.is_uppercase()
            && (!letters[at - 1].is_uppercase()
                || letters.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if begins && !category.ends_with('_') {
            category.push('_');
        }
        category.extend(letter.to_lowercase());
    }
    category
}
