"""A small film studio: eleven tasks on real pictures, over GPU, CPU and IO queues."""
