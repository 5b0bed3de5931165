// Runs in a Deno kernel before its first cell. Deno's kernel publishes from several tasks at once, so that a large output
// is torn by whatever is sent meanwhile, and what a cell wrote may come after its end. So all that cells show goes
// through a pipe instead: in order, whole, and a cell that writes faster than it is read waits.
// A frame: its kind (1 stdout, 2 stderr, 3 a message as JSON), the length of its content (4 bytes, big endian), content.
((path) => {
  const pipe = Deno.openSync(path, { write: true });
  const encoder = new TextEncoder();
  const [TEXT_AT_ONCE, MESSAGE_MAX, VALUE_MAX, REPR_MAX] = [32768, 33554432, 1048576, 65536];
  const { Console } = Deno[Deno.internal];
  const { broadcast, format } = Deno.jupyter;

  const writeAll = (bytes) => {
    for (let done = 0; done < bytes.length;) done += pipe.writeSync(bytes.subarray(done));
  };
  const write = (kind, content) => {
    const frame = new Uint8Array(5 + content.length);
    frame[0] = kind;
    new DataView(frame.buffer).setUint32(1, content.length);
    frame.set(content, 5);
    writeAll(frame);
  };
  const writeText = (kind, bytes) => {
    for (let at = 0; at < bytes.length; at += TEXT_AT_ONCE) write(kind, bytes.subarray(at, at + TEXT_AT_ONCE));
    return bytes.length;
  };
  const console = new Console((text, level) => writeText(level > 1 ? 2 : 1, encoder.encode(text)));
  Object.defineProperty(globalThis, "console", { value: console, writable: true, configurable: true });
  // In a notebook Deno loses what is written to these.
  for (const [kind, stream] of [[1, Deno.stdout], [2, Deno.stderr]]) {
    stream.writeSync = (bytes) => writeText(kind, bytes);
    stream.write = async (bytes) => writeText(kind, bytes);
  }

  // The value of a cell as data (cellyard.v1.Value), or a throw where it is none.
  const encode = (value, depth = 0) => {
    if (depth > 32) throw new RangeError("too deep");
    const all = (values) => values.map((each) => encode(each, depth + 1));
    if (value === null || typeof value === "boolean" || typeof value === "string") return value;
    if (typeof value === "bigint") return { $int: String(value) };
    if (typeof value === "number") {
      if (Number.isFinite(value)) return value;
      return { $float: Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf" };
    }
    if (typeof value !== "object") throw new TypeError("no data");
    if (Array.isArray(value)) return all(Array.from(value));
    if (value instanceof Uint8Array) return { $bytes: value.toBase64() };
    if (value instanceof Date) return { $datetime: value.toISOString().replace("Z", "+00:00") };
    if (value instanceof Map) return { $dict: Array.from(value, (pair) => all(pair)) };
    const above = Object.getPrototypeOf(value);
    const plain = (above === null || above === Object.prototype) && !Object.getOwnPropertySymbols(value).length;
    if (!plain) throw new TypeError("no data");
    const pairs = Object.entries(value);
    if (pairs.length === 1 && pairs[0][0].startsWith("$")) return { $dict: pairs.map((pair) => all(pair)) };
    return Object.fromEntries(pairs.map(([key, each]) => [key, encode(each, depth + 1)]));
  };
  const data = (value, text) => {
    try {
      const json = JSON.stringify(encode(value));
      if (json.length <= VALUE_MAX) return { json, is_repr: false };
    } catch {
      // It is shown as text.
    }
    return { json: JSON.stringify(text.length > REPR_MAX ? text.slice(0, REPR_MAX) + "…" : text), is_repr: true };
  };

  const ours = new Set(["display_data", "update_display_data", "execute_result", "clear_output", "cellyard_why"]);
  const show = async (kind, content, extra) => {
    if (!ours.has(kind)) return await broadcast(kind, content, extra);
    const message = encoder.encode(JSON.stringify({ kind, content }));
    if (message.length > MESSAGE_MAX) throw new RangeError(`a display of ${message.length} bytes is too large`);
    write(3, message);
  };
  Deno.jupyter.broadcast = show;
  Deno.jupyter.display = async (object, options = {}) => {
    const data = options.raw ? object : await format(object);
    const transient = options.display_id ? { display_id: options.display_id } : {};
    await show(options.update ? "update_display_data" : "display_data", { data, metadata: {}, transient });
  };
  const turn = () => new Promise((go) => setTimeout(go, 0));
  Deno[Deno.internal].jupyter.broadcastResult = async (execution_count, value) => {
    await turn(); // what the cell left rejected is told in the event loop's next turn, and is the cell's own
    if (value === undefined) return;
    const shown = await format(value);
    const text = shown["text/plain"] ?? Deno.inspect(value);
    shown["application/vnd.cellyard.value+json"] = data(value, text);
    await show("execute_result", { execution_count, data: shown, metadata: {} });
  };

  // Deno swallows these in a notebook. The cells after them run all the same, so nothing is lost by telling.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    if (event.reason !== null) console.error("Uncaught (in promise)", event.reason); // null: an interrupt
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    console.error("Uncaught", event.error);
  });

  const own = {
    // Why a source cannot be parsed, which Deno does not tell. The last line keeps it from ever being run.
    explain: async (source) => {
      let why = "";
      try {
        await import("data:application/typescript," + encodeURIComponent(`${source}\n)`));
      } catch (error) {
        // Its last line says where: in a line of the source, or past its end.
        const [, line] = /:(\d+):\d+$/.exec(error.message) ?? [];
        if (Number(line) <= source.split("\n").length) why = error.message.replace(/\n.*$/, "");
      }
      await show("cellyard_why", { why });
    },
    set: (variables) => Object.entries(variables).forEach(([name, value]) => Deno.env.set(name, value)),
  };
  Object.defineProperty(globalThis, Symbol.for("cellyard"), { value: Object.freeze(own) });
})
