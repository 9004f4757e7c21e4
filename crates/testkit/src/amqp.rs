use lapin::{Channel, Connection, ConnectionProperties, options::ConfirmSelectOptions};

/// A connection as any AMQP client makes it, and a channel on it that is told of every publish what became
/// of it. The channel ends with the connection.
///
/// # Errors
/// The broker is not there, or goes away.
pub async fn confirming(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}
