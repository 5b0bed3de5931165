// Runs in a Deno kernel before its first cell. Deno's kernel publishes from several tasks at once, so that a long text is
// torn by whatever is sent meanwhile, and what a cell wrote may come after its end. So everything that cells write goes
// through a pipe instead: in order, whole, and a cell that writes faster than it is read waits.
// A frame: its kind (1 stdout, 2 stderr, 3 a message as JSON), the length of its content (4 bytes, big endian), content.
((path) => {
  const pipe = Deno.openSync(path, { write: true });
  const encoder = new TextEncoder();
  const [TEXT_AT_ONCE, MESSAGE_MAX] = [32768, 33554432];
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
  const print = (text, level) => {
    const bytes = encoder.encode(text);
    for (let at = 0; at < bytes.length; at += TEXT_AT_ONCE) {
      write(level > 1 ? 2 : 1, bytes.subarray(at, at + TEXT_AT_ONCE));
    }
  };
  const console = new Console(print);
  Object.defineProperty(globalThis, "console", { value: console, writable: true, configurable: true });

  const ours = new Set(["display_data", "update_display_data", "clear_output"]);
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

  // Deno swallows these in a notebook. The cells after them run all the same, so nothing is lost by telling.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    console.error("Uncaught (in promise)", event.reason);
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    console.error("Uncaught", event.error);
  });

  const own = {
    // Published behind all that the cell has published.
    mark: (about = "") => broadcast("cellyard_mark", { about }),
    // Why a source cannot be parsed, which Deno does not tell. The last line keeps it from ever being run.
    explain: async (source) => {
      let why = "";
      try {
        await import("data:application/typescript," + encodeURIComponent(`${source}\n)`));
      } catch (error) {
        why = String(error.message);
      }
      await own.mark(why);
    },
    set: (variables) => Object.entries(variables).forEach(([name, value]) => Deno.env.set(name, value)),
  };
  Object.defineProperty(globalThis, Symbol.for("cellyard"), { value: Object.freeze(own) });
})
