//! The everyday verbs: each opens the shop, does what is asked, has everybody finish their work, and says what came of it.

use factum::{Aggregate, Position, process::Timer};

use crate::{
    audit::{audit, set_aside},
    cart::{AddItem, Cart, CartRefusal, CheckOut},
    cents::Cents,
    exit::Exit,
    fulfilment::DEADLINE,
    payment::{Authorise, Payment, PaymentRefusal},
    provider::Faults,
    shop::{CONSUMERS, Place, Shop, Workers},
    show::{say, table},
    signals::Interrupted,
    stock::{Receive, Stock, StockRefusal},
    views::OrderSummary,
};

/// Some pieces of a product: `mug` or `mug=3`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) product: String,
    pub(crate) pieces: u32,
}

/// An order, as it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
    pub(crate) address: String,
    /// Nothing: it is paid later.
    pub(crate) card: Option<String>,
    pub(crate) pay_within_s: u64,
}

async fn open(place: &Place, begin: bool) -> Result<Shop, Exit> {
    Shop::open(place, begin, Faults::Off, 0).await
}

pub(crate) async fn receive(
    place: &Place,
    item: Item,
    price: Option<Cents>,
    out: &mut String,
) -> Result<(), Exit> {
    let shop = open(place, true).await?;
    let (product, pieces) = (Stock::id(&item.product), item.pieces);
    shop.factum.execute(&product, Receive { pieces, price }).await?;
    let stock = shop.factum.load(&product).await?.state;
    *out += &format!(
        "{}: {} pieces available, {} each\n",
        item.product,
        stock.available,
        stock.price.unwrap_or_default()
    );
    shop.close().await
}

async fn put(shop: &Shop, customer: &str, item: Item) -> Result<(), Exit> {
    let stock = shop.factum.load(&Stock::id(&item.product)).await?.state;
    let price = stock
        .price
        .ok_or_else(|| Exit::refused(format!("{}: {}", item.product, StockRefusal::NoSuchProduct)))?;
    let add = AddItem { product: item.product, pieces: item.pieces, price };
    shop.factum.acting_as(customer).execute(&Cart::id(customer), add).await?;
    Ok(())
}

pub(crate) async fn cart(
    place: &Place,
    customer: &str,
    item: Option<Item>,
    out: &mut String,
) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    if let Some(item) = item {
        put(&shop, customer, item).await?;
    }
    let lines = shop.factum.load(&Cart::id(customer)).await?.state.lines();
    let rows: Vec<_> = lines
        .iter()
        .map(|line| [line.product.clone(), line.pieces.to_string(), line.price.to_string()])
        .collect();
    table(out, ["product", "pieces", "price"], 1, &rows);
    shop.close().await
}

pub(crate) async fn order(place: &Place, wanted: Wanted, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    let Wanted { customer, items, address, card, pay_within_s } = wanted;
    for item in items {
        put(&shop, &customer, item).await?;
    }
    let id = shop.factum.new_id().0.simple().to_string();
    let order = id.get(id.len() - 8..).unwrap_or(&id).to_owned();
    let factum = shop.factum.acting_as(&customer);
    let check_out = CheckOut { customer, order: order.clone(), address, pay_within_s };
    factum.decide(check_out).await.map_err(|failure| match failure.refusal() {
        Some(refusal @ CartRefusal::Empty) => {
            Exit::refused(format!("{refusal}: name products, or use `shop cart`"))
        }
        _ => failure.into(),
    })?;
    shop.settle(&workers).await?;
    let summary = summary_of(&workers, &order).await?;
    if let Some(card) = card.filter(|_| !summary.standing.is_the_end()) {
        factum.execute(&Payment::id(&order), Authorise { card }).await?;
        shop.settle(&workers).await?;
    }
    finish(shop, workers, &order, out).await
}

pub(crate) async fn pay(place: &Place, order: &str, card: String, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    shop.settle(&workers).await?;
    // The deadline may have passed while the shop was closed, and be about to be heard of.
    if let Some(instance) = workers.fulfilment.instance(order).await? {
        let late = |timer: &Timer| timer.id == DEADLINE && timer.at <= shop.factum.now();
        if instance.timers.iter().any(late) {
            return Err(Exit::refused(format!("order {order}: {}", PaymentRefusal::TooLate)));
        }
    }
    let paid = shop.factum.execute(&Payment::id(order), Authorise { card }).await;
    paid.map_err(|failure| match failure.refusal() {
        Some(refusal) => Exit::refused(format!("order {order}: {refusal}")),
        None => failure.into(),
    })?;
    shop.settle(&workers).await?;
    finish(shop, workers, order, out).await
}

async fn summary_of(workers: &Workers, order: &str) -> Result<OrderSummary, Exit> {
    let summary = workers.views.orders.get(order).await?;
    summary.ok_or_else(|| Exit::refused(format!("there is no order {order}")))
}

/// Says how an order is, and closes the shop.
async fn finish(shop: Shop, workers: Workers, order: &str, out: &mut String) -> Result<(), Exit> {
    let summary = summary_of(&workers, order).await?;
    let why = summary.why.map_or_else(String::new, |why| format!(": {why}"));
    *out += &format!(
        "order {order} of {}, {}: {}{why}\n",
        summary.customer,
        summary.total,
        summary.standing.told()
    );
    workers.stop().await;
    shop.close().await
}

pub(crate) async fn orders(place: &Place, only_open: bool, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    shop.settle(&workers).await?;
    let rows = workers.views.orders.all().await?;
    let rows = rows.into_iter().filter(|(_, row)| !only_open || !row.standing.is_the_end());
    let rows: Vec<_> = rows
        .map(|(id, row)| {
            let lines: Vec<_> =
                row.lines.iter().map(|line| format!("{} {}", line.pieces, line.product)).collect();
            let why = row.why.map_or_else(String::new, |why| format!(": {why}"));
            [
                id,
                row.customer,
                lines.join(", "),
                format!("{}{why}", row.standing.told()),
                row.total.to_string(),
                row.paid.to_string(),
            ]
        })
        .collect();
    table(out, ["order", "customer", "what", "standing", "total", "paid"], 4, &rows);
    workers.stop().await;
    shop.close().await
}

pub(crate) async fn stock(place: &Place, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    shop.settle(&workers).await?;
    let row = |(product, row): (String, crate::views::Shelf)| {
        [
            product,
            row.price.to_string(),
            row.received.to_string(),
            row.available.to_string(),
            row.reserved.to_string(),
            row.shipped.to_string(),
        ]
    };
    let rows: Vec<_> = workers.views.inventory.all().await?.into_iter().map(row).collect();
    table(out, ["product", "price", "received", "available", "reserved", "shipped"], 1, &rows);
    workers.stop().await;
    shop.close().await
}

pub(crate) async fn customer(place: &Place, name: &str, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    shop.settle(&workers).await?;
    let row = workers.views.customers.get(name).await?;
    let row = row.ok_or_else(|| Exit::refused(format!("there is no customer {name}")))?;
    *out += &format!(
        "{name}: {} orders, {} completed and {} cancelled; {} paid, {} refunded; {} pieces in the cart\n",
        row.orders, row.completed, row.cancelled, row.paid, row.refunded, row.in_cart
    );
    workers.stop().await;
    shop.close().await
}

/// Has everybody work until somebody wants it to end: only then deadlines pass as they come.
pub(crate) async fn run(place: &Place) -> Result<(), Exit> {
    let mut interrupted = Interrupted::listen()?;
    let shop = open(place, true).await?;
    let workers = shop.work().await?;
    say(format!("the shop in {place} is open; Ctrl-C closes it"));
    interrupted.asked().await;
    let status = workers.fulfilment.status().await?;
    workers.stop().await;
    say(format!("closed, with nothing half done; {}", status.timers));
    shop.close().await
}

pub(crate) async fn parked(place: &Place, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let aside = set_aside(&shop).await?;
    if aside.is_empty() {
        out.push_str("nothing is set aside\n");
    }
    for (consumer, letter) in aside {
        *out += &format!("{consumer}: {letter}\n");
    }
    shop.close().await
}

/// Has everything that is set aside tried again.
pub(crate) async fn retry(place: &Place, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    for consumer in CONSUMERS {
        shop.parked(consumer)?.retry_all().await?;
    }
    shop.settle(&workers).await?;
    *out += &format!("tried again; {} events are set aside now\n", set_aside(&shop).await?.len());
    workers.stop().await;
    shop.close().await
}

/// Gives up an event that is set aside.
pub(crate) async fn skip(place: &Place, position: u64, why: &str, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let aside = set_aside(&shop).await?;
    let found = aside.iter().find(|(_, letter)| letter.position == Position(position));
    let (consumer, _) =
        found.ok_or_else(|| Exit::refused(format!("no event at position {position} is set aside")))?;
    let workers = shop.work().await?;
    shop.parked(consumer)?.skip(Position(position), why).await?;
    shop.settle(&workers).await?;
    *out += &format!("the event at position {position} is given up by `{consumer}`, and the log says why\n");
    workers.stop().await;
    shop.close().await
}

pub(crate) async fn check(place: &Place, out: &mut String) -> Result<(), Exit> {
    let shop = open(place, false).await?;
    let workers = shop.work().await?;
    shop.settle(&workers).await?;
    workers.fulfilment.stop().await;
    audit(&shop, &workers.views, None, out).await?;
    workers.stop().await;
    shop.close().await
}
