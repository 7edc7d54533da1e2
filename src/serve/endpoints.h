// The handlers, one subject a file. Those that return a response answer at once; the others keep the exchange
// and answer when there is something to tell.
#pragma once

#include <memory>

#include "serve/context.h"
#include "serve/http.h"

namespace larder {

using ExchangePtr = std::shared_ptr<Exchange>;

void HandleChatCompletions(ServeContext& context, const HttpRequest& request, const ExchangePtr& exchange);
void HandleCompletions(ServeContext& context, const HttpRequest& request, const ExchangePtr& exchange);

HttpResponse HandleTokenize(ServeContext& context, const HttpRequest& request);
HttpResponse HandleDetokenize(ServeContext& context, const HttpRequest& request);
HttpResponse HandleTokenizerInfo(ServeContext& context, const HttpRequest& request);

HttpResponse HandleModels(ServeContext& context, const HttpRequest& request);
HttpResponse HandleModel(ServeContext& context, const HttpRequest& request, std::string_view encoded_id);
HttpResponse HandleHealth(ServeContext& context, const HttpRequest& request);
HttpResponse HandleVersion(ServeContext& context, const HttpRequest& request);

HttpResponse HandleCacheStats(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheBlocks(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheClear(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheWipe(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheChunks(ServeContext& context, const HttpRequest& request);
void HandleStoreChunks(ServeContext& context, const HttpRequest& request, const ExchangePtr& exchange);
HttpResponse HandleRemoveChunk(ServeContext& context, const HttpRequest& request, std::string_view id);
HttpResponse HandleCacheStates(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheHints(ServeContext& context, const HttpRequest& request);
HttpResponse HandleCacheLeases(ServeContext& context, const HttpRequest& request);
void HandleCacheEvents(ServeContext& context, const HttpRequest& request, const ExchangePtr& exchange);

HttpResponse HandleLmcacheQueryInstance(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheLookup(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcachePin(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheClear(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheMove(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheCompress(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheHealth(ServeContext& context, const HttpRequest& request);
HttpResponse HandleLmcacheCheckFinish(ServeContext& context, const HttpRequest& request);

HttpResponse HandleMetrics(ServeContext& context, const HttpRequest& request);
HttpResponse HandleStatusPage(ServeContext& context, const HttpRequest& request);

}  // namespace larder
