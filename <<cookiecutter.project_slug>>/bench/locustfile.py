"""The load of `make bench` for Locust: with a web page, and from as many machines as it takes."""

import random
import uuid

from locust import FastHttpUser, constant, task


class Client(FastHttpUser):
    """Asks again as soon as it is answered: mostly for one user, at times for a page or to create."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Learn which users there are; one at least."""
        self.create_user()
        page = self.client.get("/users?limit=200", name="/users?limit=200").json()
        self.ids = [user["id"] for user in page["items"]]

    @task(8)
    def read_user(self) -> None:
        """Read a user at random."""
        self.client.get(f"/users/{random.choice(self.ids)}", name="/users/{id}")

    @task(1)
    def list_users(self) -> None:
        """List 50 users, from a random place on."""
        self.client.get(
            f"/users?limit=50&after={random.choice(self.ids)}", name="/users?limit=50&after={id}"
        )

    @task(1)
    def create_user(self) -> None:
        """Create a user."""
        email = f"{uuid.uuid4()}@example.com"
        self.client.post("/users", json={"email": email, "full_name": "Somebody"})
