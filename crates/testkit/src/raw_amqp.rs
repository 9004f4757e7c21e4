//! An AMQP client that writes its frames itself, so that it can send what no library would.

use lapin::uri::AMQPUri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;

/// Bits of the property flags.
const CONTENT_TYPE: u16 = 1 << 15;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;

/// The part of a body that goes into one frame.
const BODY_PART: usize = 64 * 1024;

/// A connection with one channel in confirm mode.
pub struct RawProducer {
    stream: TcpStream,
}

/// The properties of a message, as they are on the wire.
#[derive(Debug, Clone, Default)]
pub struct RawProperties {
    /// The flags that tell which of them are there.
    pub flags: u16,
    /// Their values, one after the other.
    pub values: Vec<u8>,
}

impl RawProperties {
    /// A persistent message of this content type whose header table has these bytes.
    pub fn new(content_type: &[u8], table: &[u8]) -> Self {
        let mut values = short(content_type);
        values.extend(long(table));
        values.push(2);
        Self {
            flags: CONTENT_TYPE | HEADERS | DELIVERY_MODE,
            values,
        }
    }

    /// The same with one more property, which stands after those on the wire.
    #[must_use]
    pub fn with(mut self, bit: u16, value: &[u8]) -> Self {
        self.flags |= 1 << bit;
        self.values.extend(value);
        self
    }
}

/// A short string: its length in one byte, and its bytes.
pub fn short(bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![u8::try_from(bytes.len()).unwrap()];
    text.extend(bytes);
    text
}

/// A long string, table or array: its length in four bytes, and its bytes.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let mut text = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    text.extend(bytes);
    text
}

/// A field of a table: its name, its type and its value.
pub fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

/// A table with one field, which is a table with one field, and so on. Its bytes.
pub fn nested_tables(name: &[u8], depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| field(name, b'F', &long(&inner)))
}

/// A table with one field, which is an array that holds an array, and so on. Its bytes.
pub fn nested_arrays(name: &[u8], depth: usize) -> Vec<u8> {
    let arrays = (1..depth).fold(Vec::new(), |inner, _| [&b"A"[..], &long(&inner)].concat());
    field(name, b'A', &long(&arrays))
}

impl RawProducer {
    /// Connects as any client does.
    ///
    /// # Panics
    /// The broker is not there, or refuses.
    pub async fn connect(url: &str) -> Self {
        let uri: AMQPUri = url.parse().unwrap();
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let stream = TcpStream::connect(address).await.unwrap();
        let mut producer = Self { stream };
        producer.stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        producer.expect(10, 10).await.unwrap();
        let user = &uri.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start = [
            long(b""),
            short(b"PLAIN"),
            long(login.as_bytes()),
            short(b"en_US"),
        ]
        .concat();
        producer.call(0, (10, 11), &start).await;
        let tune = producer.expect(10, 30).await.unwrap();
        let without_heartbeat = [&tune[..6], &[0, 0]].concat();
        producer.call(0, (10, 31), &without_heartbeat).await;
        let open = [short(uri.vhost.as_bytes()), short(b""), vec![0]].concat();
        producer.call(0, (10, 40), &open).await;
        producer.expect(10, 41).await.unwrap();
        producer.call(1, (20, 10), &short(b"")).await;
        producer.expect(20, 11).await.unwrap();
        producer.call(1, (85, 10), &[0]).await;
        producer.expect(85, 11).await.unwrap();
        producer
    }

    /// Publishes a message and waits for its confirm.
    ///
    /// # Errors
    /// The broker did not take it, and why.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &RawProperties,
        body: &[u8],
    ) -> Result<(), String> {
        let publish = [
            &[0, 0][..],
            &short(exchange.as_bytes()),
            &short(routing_key),
            &[0],
        ]
        .concat();
        self.call(1, (60, 40), &publish).await;
        let size = u64::try_from(body.len()).unwrap().to_be_bytes();
        let header = [
            &60_u16.to_be_bytes()[..],
            &[0, 0],
            &size,
            &properties.flags.to_be_bytes(),
            &properties.values,
        ]
        .concat();
        self.frame(HEADER, 1, &header).await;
        for part in body.chunks(BODY_PART) {
            self.frame(BODY, 1, part).await;
        }
        self.expect(60, 80).await.map(drop)
    }

    async fn call(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[END]].concat();
        // A broker that has closed the connection says why where it is read.
        let _ = self.stream.write_all(&frame).await;
    }

    /// The arguments of the next method, which must be this one.
    async fn expect(&mut self, class: u16, method: u16) -> Result<Vec<u8>, String> {
        loop {
            let mut head = [0; 7];
            self.stream
                .read_exact(&mut head)
                .await
                .map_err(|e| e.to_string())?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; usize::try_from(length).unwrap() + 1];
            self.stream
                .read_exact(&mut payload)
                .await
                .map_err(|e| e.to_string())?;
            payload.pop();
            if head[0] == HEARTBEAT {
                continue;
            }
            let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
            return match payload.split_off(4) {
                arguments if payload == wanted => Ok(arguments),
                arguments => Err(String::from_utf8_lossy(&arguments).into_owned()),
            };
        }
    }
}
