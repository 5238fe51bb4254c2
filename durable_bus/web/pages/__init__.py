"""The console's pages: each is a function that makes HTML of one look at the journal. All are GET."""

from starlette.routing import Route

from durable_bus.web.pages import buffers, messages, overview, questions, times, workers
from durable_bus.web.pages.look import error_response, page

__all__ = ["error_response", "routes"]

routes = [
    Route("/", page(overview.overview), methods=["GET"]),
    Route("/buffers", page(buffers.buffers), methods=["GET"]),
    Route("/buffers/{buffer_id}", page(buffers.buffer), methods=["GET"]),
    Route("/buffers/{buffer_id}/items/{index}", page(buffers.item), methods=["GET"]),
    Route("/buffers/{buffer_id}/items/{index}/{what}", page(buffers.payload), methods=["GET"]),
    Route("/workers", page(workers.workers), methods=["GET"]),
    Route("/messages", page(messages.messages), methods=["GET"]),
    Route("/messages/{message_id:path}", page(messages.message), methods=["GET"]),
    Route("/questions", page(questions.questions_page), methods=["GET"]),
    Route("/time", page(times.times), methods=["GET"]),
]
