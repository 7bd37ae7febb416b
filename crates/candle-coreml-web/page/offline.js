// Keeps the page's own files for the time without a network: asks for them first, and takes the kept ones if that fails.
const KEPT = "candle-coreml";

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const names = await (await fetch("files.json")).json();
    await (await caches.open(KEPT)).addAll(["./", "files.json", ...names]);
    await self.skipWaiting();
  })());
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith((async () => {
    const kept = await caches.open(KEPT);
    try {
      const answer = await fetch(request);
      if (answer.ok) await kept.put(request, answer.clone());
      return answer;
    } catch (error) {
      const old = await kept.match(request, { ignoreSearch: true });
      if (old) return old;
      throw error;
    }
  })());
});
