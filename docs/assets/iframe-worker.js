// Lets the search of these pages run when they are opened from a folder: browsers refuse a Worker there, so its script
// runs in a hidden frame. Material's own remedy is loaded from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<body><script>
        window.postMessage = (data) => parent.postMessage(data, "*");
        window.importScripts = (...scripts) => scripts.reduce((before, script) => before.then(() => new Promise((done) => {
          const element = document.createElement("script");
          element.src = script;
          element.onload = done;
          document.body.append(element);
        })), Promise.resolve());
      <\/script><script src="${url}"><\/script>`;
      this.ready = new Promise((done) => { this.frame.onload = done; });
      window.addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        const message = new MessageEvent("message", { data: event.data });
        if (this.onmessage) this.onmessage(message);
        this.dispatchEvent(message);
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() { this.frame.remove(); }
  };
}
