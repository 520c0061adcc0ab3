//! Our own attributes: `#[event(…)]` on the enum and on variants, `#[tag]` on fields.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{
    Attribute, Error, Ident, LitInt, LitStr, Meta, Path, Result, Token, meta::ParseNestedMeta,
    parse::ParseStream,
};

const ON_ENUM: &[&str] = &["category", "tags", "happened_at", "evolution", "crate"];
const ON_VARIANT: &[&str] = &["version"];
const ON_SET: &[&str] = &["crate"];

/// What has been found wrong so far: all of it is told at once.
#[derive(Default)]
pub(crate) struct Problems(Option<Error>);

impl Problems {
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(first) => first.combine(error),
        }
    }

    /// The value, or its default after noting what is wrong.
    pub(crate) fn value<T: Default>(&mut self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.add(error);
            T::default()
        })
    }

    pub(crate) fn none<T>(self, value: T) -> Result<T> {
        self.0.map_or(Ok(value), Err)
    }
}

/// `#[event(…)]` on an enum.
#[derive(Default)]
pub(crate) struct OnEnum {
    pub(crate) category: Option<LitStr>,
    pub(crate) tags: Option<Path>,
    pub(crate) happened_at: Option<Path>,
    pub(crate) evolution: Option<Path>,
    krate: Option<Path>,
}

impl OnEnum {
    pub(crate) fn of(attributes: &[Attribute], ident: &Ident) -> Result<Self> {
        let mut own = Self::default();
        no_tag(attributes)?;
        each(attributes, |meta| {
            if meta.path.is_ident("category") {
                once(&mut own.category, &meta, category)
            } else if meta.path.is_ident("tags") {
                once(&mut own.tags, &meta, |value| function(value, "tags", ident))
            } else if meta.path.is_ident("happened_at") {
                once(&mut own.happened_at, &meta, |value| function(value, "happened_at", ident))
            } else if meta.path.is_ident("evolution") {
                once(&mut own.evolution, &meta, |value| function(value, "evolution", ident))
            } else if meta.path.is_ident("crate") {
                once(&mut own.krate, &meta, |value| value.call(Path::parse_mod_style))
            } else {
                Err(unknown(&meta, "the enum", ON_ENUM))
            }
        })?;
        Ok(own)
    }

    /// Where factum is, as seen from the enum.
    pub(crate) fn krate(&self) -> TokenStream {
        self.krate.as_ref().map_or_else(|| quote!(::factum), ToTokens::to_token_stream)
    }
}

/// `#[event(crate = …)]` on the enum of a set.
pub(crate) fn on_set(attributes: &[Attribute]) -> Result<OnEnum> {
    let mut own = OnEnum::default();
    each(attributes, |meta| {
        if meta.path.is_ident("crate") {
            once(&mut own.krate, &meta, |value| value.call(Path::parse_mod_style))
        } else {
            Err(unknown(&meta, "a set of events", ON_SET))
        }
    })?;
    Ok(own)
}

/// `#[event(version = …)]` on a variant.
pub(crate) fn version(attributes: &[Attribute]) -> Result<Option<u32>> {
    let mut version = None;
    no_tag(attributes)?;
    each(attributes, |meta| {
        if !meta.path.is_ident("version") {
            return Err(unknown(&meta, "a variant", ON_VARIANT));
        }
        once(&mut version, &meta, |value| {
            let wrong = |span: Span| Error::new(span, "a version is a whole number: `version = 2`");
            let literal: LitInt = value.parse().map_err(|error: Error| wrong(error.span()))?;
            match literal.base10_parse() {
                Ok(0 | 1) => Err(Error::new(
                    literal.span(),
                    "every variant begins at version 1, which is not said: leave it out, or write 2 when its shape changes",
                )),
                Ok(number) => Ok(number),
                Err(_) => Err(wrong(literal.span())),
            }
        })
    })?;
    Ok(version)
}

/// `#[tag]` or `#[tag("key")]`.
pub(crate) struct Tag {
    pub(crate) key: Option<LitStr>,
    pub(crate) span: Span,
}

/// The tag that a field becomes.
pub(crate) fn tag(attributes: &[Attribute]) -> Result<Option<Tag>> {
    if let Some(event) = attributes.iter().find(|attribute| attribute.path().is_ident("event")) {
        let why = "a field takes no `#[event(…)]`: for a tag write `#[tag]` or `#[tag(\"key\")]`";
        return Err(Error::new_spanned(event, why));
    }
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("tag")) {
        if found.is_some() {
            return Err(Error::new_spanned(attribute, "a field becomes one tag: leave one `#[tag]`"));
        }
        let span = attribute.path().segments[0].ident.span();
        let key = match &attribute.meta {
            Meta::Path(_) => None,
            Meta::List(list) => Some(list.parse_args::<LitStr>().map_err(|error| wrong_tag(error.span()))?),
            Meta::NameValue(_) => return Err(wrong_tag(span)),
        };
        if let Some(key) = &key {
            check_key(&key.value(), key.span())?;
        }
        found = Some(Tag { key, span });
    }
    Ok(found)
}

fn wrong_tag(span: Span) -> Error {
    Error::new(span, "write `#[tag]`, which takes the field's name as key, or `#[tag(\"key\")]`")
}

/// Whether this can stand before the `:` of a tag.
pub(crate) fn check_key(key: &str, span: Span) -> Result<()> {
    let why = if key.is_empty() {
        "a tag is `key:value`, and this key is empty: give it at least one character"
    } else if key.contains(':') {
        "a tag is `key:value`, and its key ends at the first `:`: leave it out of the key"
    } else if key.contains(char::is_control) {
        "a tag holds no control character"
    } else if key.len() > 128 {
        "a tag has at most 256 bytes with its value: take a shorter key"
    } else {
        return Ok(());
    };
    Err(Error::new(span, why))
}

fn no_tag(attributes: &[Attribute]) -> Result<()> {
    match attributes.iter().find(|attribute| attribute.path().is_ident("tag")) {
        None => Ok(()),
        Some(tag) => {
            let why = "`#[tag]` stands on the field whose value is the tag's; for a tag made of anything else there is \
                       `#[event(tags = path)]` on the enum";
            Err(Error::new_spanned(tag, why))
        }
    }
}

fn each(attributes: &[Attribute], mut read: impl FnMut(ParseNestedMeta) -> Result<()>) -> Result<()> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("event"))
        .try_for_each(|attribute| attribute.parse_nested_meta(&mut read))
}

/// Reads `= value` into an empty slot.
fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta,
    read: impl FnOnce(ParseStream) -> Result<T>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error(format!("`{}` is said twice: leave one", name(&meta.path))));
    }
    let name = name(&meta.path);
    let value = meta.value().map_err(|error| Error::new(error.span(), format!("say which: `{name} = …`")))?;
    *slot = Some(read(value)?);
    Ok(())
}

fn category(value: ParseStream) -> Result<LitStr> {
    value
        .parse()
        .map_err(|error| Error::new(error.span(), "write the category in quotes: `category = \"account\"`"))
}

/// The path of the function that is called in `method`.
fn function(value: ParseStream, method: &str, ident: &Ident) -> Result<Path> {
    let wrong = |span: Span| {
        let why =
            "this is the path of a function, without quotes and brackets: for example `Self::older_shapes`";
        Error::new(span, why)
    };
    let path = value.call(Path::parse_mod_style).map_err(|error| wrong(error.span()))?;
    if !value.is_empty() && !value.peek(Token![,]) {
        return Err(wrong(value.span()));
    }
    let words: Vec<_> = path.segments.iter().map(|segment| &segment.ident).collect();
    if let [own, name] = words[..]
        && (own == "Self" || own == ident)
        && name == method
    {
        // If there is no such function besides, this is the trait's own, and would call itself until the stack is full.
        let why = format!(
            "a method `{method}` is written that calls this function, and could call itself: give the function another name"
        );
        return Err(Error::new_spanned(path, why));
    }
    Ok(path)
}

fn unknown(meta: &ParseNestedMeta, place: &str, known: &[&str]) -> Error {
    let name = name(&meta.path);
    let elsewhere = if ON_VARIANT.contains(&&*name) {
        "; that belongs on a variant"
    } else if ON_ENUM.contains(&&*name) {
        "; that belongs on the enum of one kind of events"
    } else if name == "rename" {
        "; the stored name is serde's, `#[serde(rename = \"…\")]`"
    } else {
        ""
    };
    let known = known.join("`, `");
    meta.error(format!("`{name}` is not known here{elsewhere}: {place} takes `{known}`"))
}

fn name(path: &Path) -> String {
    let words: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    words.join("::")
}
