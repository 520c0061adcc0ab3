//! `#[derive(EventSet)]`.

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, Error, Fields, Ident, Result, Type};

use crate::attributes::{Problems, on_set};

/// The `impl`, or what is wrong.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    written(input).unwrap_or_else(|error| error.to_compile_error())
}

fn written(input: &DeriveInput) -> Result<TokenStream> {
    let parts = parts(input)?;
    let (name, krate) = (&input.ident, on_set(&input.attrs)?.krate());
    let Some(((last_variant, last), before)) = parts.split_last() else {
        return Err(Error::new_spanned(name, "a set of events has at least one variant"));
    };
    let set = quote! { #krate::EventSet };
    let (variants, types): (Vec<_>, Vec<_>) = before.iter().copied().unzip();
    let all: Vec<_> = parts.iter().map(|(_, ty)| ty).collect();
    let (first, others) = (all[0], &all[1..]);
    Ok(quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #set for #name {
            fn query() -> #krate::Result<#krate::Query> {
                ::std::result::Result::Ok(<#first as #set>::query()? #(.or(<#others as #set>::query()?))*)
            }
            fn is_for(record: &#krate::RecordedEvent) -> bool {
                #(<#all as #set>::is_for(record))||*
            }
            fn decode_each(record: &#krate::RecordedEvent, each: &mut dyn ::std::ops::FnMut(Self)) -> #krate::Result<()> {
                #(if <#types as #set>::is_for(record) {
                    return <#types as #set>::decode_each(record, &mut |event| each(Self::#variants(event)));
                })*
                <#last as #set>::decode_each(record, &mut |event| each(Self::#last_variant(event)))
            }
        }
    })
}

/// The variants, each with the events that it holds.
fn parts(input: &DeriveInput) -> Result<Vec<(&Ident, &Type)>> {
    let name = &input.ident;
    let Data::Enum(data) = &input.data else {
        let why = format!(
            "a set of events is an enum: `enum {name} {{ Order(OrderEvent), Payment(PaymentEvent) }}`"
        );
        return Err(Error::new_spanned(name, why));
    };
    if !input.generics.params.is_empty() {
        let why = "a set of events owns them: leave out type parameters and lifetimes";
        return Err(Error::new_spanned(&input.generics, why));
    }
    let (mut problems, mut parts, mut seen) = (Problems::default(), Vec::new(), HashSet::new());
    for variant in &data.variants {
        let ident = &variant.ident;
        let Fields::Unnamed(fields) = &variant.fields else {
            problems.add(not_one(ident));
            continue;
        };
        match fields.unnamed.first() {
            Some(field) if fields.unnamed.len() == 1 => {
                if !seen.insert(field.ty.to_token_stream().to_string()) {
                    let why = "these events are in the set already: each kind has one variant";
                    problems.add(Error::new_spanned(&field.ty, why));
                }
                parts.push((ident, &field.ty));
            }
            _ => problems.add(not_one(ident)),
        }
    }
    problems.none(parts)
}

fn not_one(variant: &Ident) -> Error {
    let why = format!(
        "each variant of a set holds the events of one kind, and nothing else: `{variant}({variant}Event)`"
    );
    Error::new_spanned(variant, why)
}
