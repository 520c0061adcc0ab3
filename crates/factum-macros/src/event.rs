//! `#[derive(Event)]`.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Data, DataEnum, DeriveInput, Error, Field, Fields, GenericArgument, Ident, PathArguments, Result, Type,
    Variant, ext::IdentExt, spanned::Spanned,
};

use crate::{
    attributes::{self, OnEnum, Problems},
    names::{self, Rule, Serde},
};

/// The `impl`, or what is wrong.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    match Events::of(input) {
        Ok(events) => events.written(),
        Err(error) => {
            let (told, name) = (error.to_compile_error(), &input.ident);
            // Without an `impl`, every use of the type would be told as well.
            let stand_in = input.generics.params.is_empty().then(|| {
                let krate = OnEnum::of(&input.attrs, name).unwrap_or_default().krate();
                quote! {
                    #[automatically_derived]
                    impl #krate::Event for #name {
                        const CATEGORY: &'static str = "";
                    }
                }
            });
            quote! { #told #stand_in }
        }
    }
}

/// What is known of an enum of events.
struct Events<'a> {
    name: &'a Ident,
    krate: TokenStream,
    category: String,
    versions: Vec<(String, u32)>,
    tagged: Vec<Tagged<'a>>,
    /// Whether each variant has a tag.
    all_tagged: bool,
    own: OnEnum,
}

/// A variant with fields that are tags.
struct Tagged<'a> {
    variant: &'a Variant,
    tags: Vec<Tag>,
}

/// A field that is a tag.
struct Tag {
    /// Its place among the fields.
    at: usize,
    key: String,
    /// The field's name, or what the `impl` calls it.
    value: Ident,
    /// How many of `Option`, `Vec` and the like are around the value.
    layers: usize,
}

impl<'a> Events<'a> {
    fn of(input: &'a DeriveInput) -> Result<Self> {
        let data = kinds(input)?;
        let mut problems = Problems::default();
        let own = problems.value(OnEnum::of(&input.attrs, &input.ident));
        let category = problems.value(category(input, &own));
        let serde = problems.value(Serde::of(&input.attrs));
        let (mut versions, mut tagged, mut stored) = (Vec::new(), Vec::new(), HashSet::new());
        for variant in &data.variants {
            let version = problems.value(attributes::version(&variant.attrs));
            let on_variant = problems.value(Serde::of(&variant.attrs));
            let of_fields = on_variant.rename_all.or(serde.rename_all_fields);
            let name = on_variant.variant(&variant.ident, serde.rename_all);
            let stored_as = version.map_or(name.clone(), |version| format!("{name}.v{version}"));
            problems.value(check_type(&stored_as, &variant.ident));
            if !stored.insert(stored_as.clone()) {
                let why =
                    format!("two variants are stored as `{stored_as}`: give one another name or version");
                problems.add(Error::new_spanned(&variant.ident, why));
            }
            versions.extend(version.map(|version| (name, version)));
            let mut tags = Vec::new();
            for (at, field) in variant.fields.iter().enumerate() {
                tags.extend(problems.value(tag(at, field, of_fields)));
            }
            if !tags.is_empty() {
                tagged.push(Tagged { variant, tags });
            }
        }
        let all_tagged = tagged.len() == data.variants.len();
        problems.none(Self {
            name: &input.ident,
            krate: own.krate(),
            category,
            versions,
            tagged,
            all_tagged,
            own,
        })
    }

    fn written(&self) -> TokenStream {
        let Self { name, krate, category, .. } = self;
        let (versions, tags) = (self.versions(), self.tags());
        let happened_at = self.own.happened_at.as_ref().map(|path| {
            quote! {
                fn happened_at(&self) -> ::std::option::Option<#krate::Timestamp> { #path(self) }
            }
        });
        let evolution = self.own.evolution.as_ref().map(|path| {
            quote! {
                fn evolution() -> #krate::Evolution<Self> { #path() }
            }
        });
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #krate::Event for #name {
                const CATEGORY: &'static str = #category;
                #versions
                #tags
                #happened_at
                #evolution
            }
        }
    }

    fn versions(&self) -> Option<TokenStream> {
        let versions = self.versions.iter().map(|(name, version)| {
            let version = proc_macro2::Literal::u32_unsuffixed(*version);
            quote! { (#name, #version) }
        });
        let any = !self.versions.is_empty();
        any.then(|| quote! { const VERSIONS: &'static [(&'static str, u32)] = &[#(#versions),*]; })
    }

    fn tags(&self) -> Option<TokenStream> {
        if self.tagged.is_empty() && self.own.tags.is_none() {
            return None;
        }
        // Hygienic: a field may be called the same.
        let tags = Ident::new("tags", Span::mixed_site());
        let begin = match &self.own.tags {
            Some(path) => quote! { #path(self) },
            None => quote! { ::std::vec::Vec::new() },
        };
        let body = if self.tagged.is_empty() {
            begin
        } else {
            let arms = self.tagged.iter().map(|tagged| tagged.arm(&tags));
            let others = (!self.all_tagged).then(|| quote! { _ => {} });
            quote! {
                let mut #tags = #begin;
                match self {
                    #(#arms)*
                    #others
                }
                #tags
            }
        };
        Some(quote! { fn tags(&self) -> ::std::vec::Vec<::std::string::String> { #body } })
    }
}

impl Tagged<'_> {
    fn arm(&self, tags: &Ident) -> TokenStream {
        let variant = &self.variant.ident;
        let values = self.tags.iter().map(|tag| &tag.value);
        let pattern = match &self.variant.fields {
            Fields::Unnamed(fields) => {
                let value = |at| self.tags.iter().find(|tag| tag.at == at).map(|tag| &tag.value);
                let places = (0..fields.unnamed.len()).map(|at| match value(at) {
                    Some(value) => quote! { #value },
                    None => quote! { _ },
                });
                quote! { (#(#places),*) }
            }
            _ => quote! { { #(#values,)* .. } },
        };
        let pushes = self.tags.iter().map(|tag| tag.push(tags));
        quote! { Self::#variant #pattern => { #(#pushes)* } }
    }
}

impl Tag {
    fn push(&self, tags: &Ident) -> TokenStream {
        let Self { value, .. } = self;
        let format = format!("{}:{{}}", self.key.replace('{', "{{").replace('}', "}}"));
        let Some(inner) = self.layers.checked_sub(1) else {
            return quote! { #tags.push(::std::format!(#format, #value)); };
        };
        let flatten = vec![quote! { .flatten() }; inner];
        quote! { #tags.extend(#value.iter() #(#flatten)* .map(|#value| ::std::format!(#format, #value))); }
    }
}

/// The variants of an enum that can be one of events.
fn kinds(input: &DeriveInput) -> Result<&DataEnum> {
    let name = &input.ident;
    let Data::Enum(data) = &input.data else {
        let why = format!(
            "events are an enum with one variant per kind of thing that happened: `enum {name} {{ … }}`"
        );
        return Err(Error::new_spanned(name, why));
    };
    if !input.generics.params.is_empty() {
        let why = "events have one stored form and own their data: leave out type parameters and lifetimes";
        return Err(Error::new_spanned(&input.generics, why));
    }
    Ok(data)
}

fn category(input: &DeriveInput, own: &OnEnum) -> Result<String> {
    let (category, span) = match &own.category {
        Some(literal) => (literal.value(), literal.span()),
        None => (names::category(&input.ident), input.ident.span()),
    };
    let why = if category.is_empty() && own.category.is_none() {
        "no category follows from this name: say it, `#[event(category = \"…\")]`"
    } else if category.is_empty() {
        "a category has at least one character"
    } else if category.contains('-') {
        "a category is a stream's name up to the first `-`: make it one word without `-`"
    } else if category.starts_with("$$") {
        "names that begin with `$$` belong to the lives of streams: take another category"
    } else if category.contains(char::is_control) {
        "a category holds no control character"
    } else if category.len() > 256 {
        "a stream's name has at most 512 bytes with the id: take a category of at most 256"
    } else {
        return Ok(category);
    };
    Err(Error::new(span, why))
}

/// Whether an event can be stored under this name.
fn check_type(stored: &str, variant: &Ident) -> Result<()> {
    let why = if stored.is_empty() {
        "an event's type has at least one character"
    } else if stored.len() > 256 {
        "an event's type has at most 256 bytes: take a shorter name"
    } else if stored.contains(char::is_control) {
        "an event's type holds no control character"
    } else {
        return Ok(());
    };
    Err(Error::new_spanned(variant, why))
}

/// What a field adds to the tags.
fn tag(at: usize, field: &Field, rule: Option<Rule>) -> Result<Option<Tag>> {
    let Some(tag) = attributes::tag(&field.attrs)? else { return Ok(None) };
    let key = match (&tag.key, &field.ident) {
        (Some(key), _) => key.value(),
        (None, Some(ident)) => {
            let key = Serde::of(&field.attrs)?.field(ident, rule);
            attributes::check_key(&key, ident.span())?;
            key
        }
        (None, None) => {
            let why = "this field has no name to be the tag's key: write `#[tag(\"key\")]`";
            return Err(Error::new(tag.span, why));
        }
    };
    let value = match &field.ident {
        Some(ident) => ident.clone(),
        None => format_ident!("field{at}", span = Span::mixed_site().located_at(field.ty.span())),
    };
    if is_bytes(&field.ty) {
        let why = "this would become a tag for every single byte: tag a text that stands for all of them (hexadecimal, say), with \
                   `#[event(tags = path)]` on the enum";
        return Err(Error::new_spanned(&field.ty, why));
    }
    Ok(Some(Tag { at, key, value, layers: layers(&field.ty) }))
}

/// Whether a list of bytes is in it: one value, and no list of numbers. (`Option<u8>` and a set of `u8` are what they say.)
fn is_bytes(ty: &Type) -> bool {
    let is_list = |ty: &Ident| ["Vec", "VecDeque"].contains(&&*ty.unraw().to_string());
    let is_byte = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("u8"));
    match ty {
        Type::Array(array) => is_byte(&array.elem) || is_bytes(&array.elem),
        Type::Group(group) => is_bytes(&group.elem),
        Type::Paren(paren) => is_bytes(&paren.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|last| match &last.arguments {
            PathArguments::AngleBracketed(inner) => inner.args.iter().any(|inner| match inner {
                GenericArgument::Type(inner) => (is_list(&last.ident) && is_byte(inner)) || is_bytes(inner),
                _ => false,
            }),
            _ => false,
        }),
        _ => false,
    }
}

/// How many of `Option`, `Vec` and the like are around a value: each of them adds a tag for every value in it.
fn layers(ty: &Type) -> usize {
    const MANY: &[&str] = &["Option", "Vec", "VecDeque", "BTreeSet", "HashSet"];
    match ty {
        Type::Array(array) => 1 + layers(&array.elem),
        Type::Group(group) => layers(&group.elem),
        Type::Paren(paren) => layers(&paren.elem),
        Type::Path(path) => match path.path.segments.last() {
            Some(last) if MANY.contains(&&*last.ident.unraw().to_string()) => match &last.arguments {
                PathArguments::AngleBracketed(inner) => match inner.args.first() {
                    Some(GenericArgument::Type(inner)) => 1 + layers(inner),
                    _ => 1,
                },
                _ => 1,
            },
            _ => 0,
        },
        _ => 0,
    }
}
