// What a connection has read, as a request or as the reason why it is none.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "serve/errors.h"
#include "serve/http.h"

namespace larder {

using RequestParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

HttpRequest ToRequest(const RequestParser::value_type& message);  // without its body
// Some clients send an empty line after a body.
void SkipBlankLines(boost::beast::flat_buffer& buffer);

ApiError ReadError(const boost::system::error_code& error);
ApiError TimeoutError();

}  // namespace larder
